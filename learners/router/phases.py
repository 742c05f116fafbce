"""The two phases of a router's training, full batch on every rank: risks by their Brier scores,
dissent by its log loss, then the policy.

The policy is the primal of  min_p max_lambda cost + lambda (CVaR - eps); lambda ascends after every
step. The risk heads are fixed by then and calibrated, so that what the policy reads is what will be
deployed. In `joint` mode there is one phase: the single output r is risk and escalation probability
at once, and takes lambda_B x Brier besides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from learners.router.data import Share
from learners.router.duality import Duality
from learners.router.engine import Head, Log, start_engine, to_numpy
from learners.router.losses import (
    Cvar,
    Outcomes,
    Reduce,
    ascend,
    brier_sum,
    constrained_loss,
    exact_cvar,
    latched_outcomes,
    log_loss_sum,
    paper_outcomes,
)
from r2v_dist.config.router import RouterConfig
from r2v_dist.router.calibration import Calibrator, sigmoid
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import ESTIMATES, RISKS
from r2v_dist.seeding import stable_hash
from r2v_dist.stats.mixing import Mix

Array = npt.NDArray[np.float64]
Judge = Callable[[Mlp], Mix | None]
"""The cheapest feasible operating point of a policy on validation labels."""


@dataclass(frozen=True)
class Setting:
    """What the phases of one job share."""

    config: RouterConfig
    seed: int
    reduce: Reduce
    log: Log


def train_risks(setting: Setting, train: Share, validation: Share) -> dict[str, Mlp]:
    """A head for every estimate that has labels, each at the step where its score on validation was
    least.
    """
    config = setting.config
    names = [name for name in ESTIMATES if train.n_total[name] and validation.n_total[name]]
    inputs = train.f_UF.shape[1]
    heads = nn.ModuleDict(
        {name: _head(inputs, config.risk_hidden, setting.seed, name) for name in names}
    )
    engine = start_engine(heads.to(train.f_UF.device), config.learning_rate, config.weight_decay)
    best: dict[str, Tensor] = {}
    least_by_name = dict.fromkeys(names, np.inf)
    stale = 0
    for step in range(1, config.risk_steps + 1):
        sums = _scores(heads, train)
        losses = [train.totals.ranks * sums[name] / train.n_total[name] for name in names]
        engine.backward(sum(losses, torch.zeros(())))
        norm = gradient_norm(heads)
        engine.step()
        _log_risks(setting.log, step, _means(setting.reduce, sums, train), norm)
        if step % config.check_every_steps and step < config.risk_steps:
            continue
        with torch.no_grad():
            scores = _means(setting.reduce, _scores(heads, validation), validation)
        improved_names = [name for name in names if scores[name] < least_by_name[name] - 1e-6]
        for name in improved_names:
            least_by_name[name] = scores[name]
            best |= _copied(heads[name], f"{name}.")
        stale = 0 if improved_names else stale + 1
        if stale >= config.patience:
            break
    heads.load_state_dict(best)
    return {name: _exported(heads[name]) for name in names}


def train_policy(
    setting: Setting, share: Share, inputs_UI: Tensor, judge: Judge
) -> tuple[Mlp, Duality]:
    """The policy head (the single output in `joint`), at the check where validation was cheapest
    among feasible, and the duality.
    """
    config = setting.config
    joint = config.mode == "joint"
    hidden = config.risk_hidden if joint else config.policy_hidden
    head = _head(inputs_UI.shape[1], hidden, setting.seed, "rho" if joint else "policy")
    engine = start_engine(head.to(inputs_UI.device), config.learning_rate, config.weight_decay)
    steps_before = 0 if joint else config.risk_steps
    multiplier = config.lambda_start
    late = np.zeros(3)  # steps, and sums of lambda and CVaR over them
    best: dict[str, Tensor] = {}
    least = np.inf
    for step in range(1, config.policy_steps + 1):
        temperature = _temperature(config, step)
        loss, tail, cost, brier = policy_loss(
            head, config, share, inputs_UI, multiplier, temperature, setting.reduce
        )
        engine.backward(loss)
        norm = gradient_norm(head)
        engine.step()
        row = _policy_row(config, multiplier, tail, cost, brier)
        setting.log.add(steps_before + step, phase="policy", gradient_norm=norm, **row)
        violation = tail.value - config.epsilon
        multiplier = ascend(multiplier, violation, config.lambda_learning_rate, config.lambda_max)
        if step > 0.9 * config.policy_steps:
            late += (1.0, multiplier, tail.value)
        if step % config.check_every_steps and step < config.policy_steps:
            continue
        point = judge(_exported(head))
        if not best or (point is not None and point.cost < least):
            least = np.inf if point is None else point.cost
            best = _copied(head)
    if np.isfinite(least):
        head.load_state_dict(best)
    late_multiplier, late_cvar = (late[1:] / max(late[0], 1.0)).tolist()
    of_teacher = handed_over(config, share, setting.reduce)
    return _exported(head), Duality(multiplier, late_multiplier, late_cvar, of_teacher)


def _log_risks(log: Log, step: int, scores: dict[str, float], norm: float) -> None:
    columns = {
        f"{'brier' if name in RISKS else 'log_loss'}_{name}": score
        for name, score in scores.items()
    }
    log.add(step, phase="risk", loss=sum(scores.values()), gradient_norm=norm, **columns)


def _policy_row(
    config: RouterConfig, multiplier: float, tail: Cvar, cost: float, brier: float
) -> dict[str, float]:
    """What is logged of a step of the policy: the Lagrangian and its parts."""
    row = {
        "loss": cost + multiplier * (tail.value - config.epsilon),
        "cost": cost,
        "cvar": tail.value,
        "eta": tail.eta,
        "lambda": multiplier,
    }
    if config.mode == "joint":
        row["loss"] += config.lambda_brier * brier
        row["brier_rho"] = brier
    return row


def handed_over(config: RouterConfig, share: Share, reduce: Reduce) -> float:
    """CVaR of the whole batch when the teacher acts from the first step on."""
    always_ET = torch.ones_like(share.episodes.rhoT_ET)
    outcomes = surrogate(config, always_ET, share)
    return exact_cvar(reduce(outcomes.failure_Z) / outcomes.per_Z, config.tail).value


def policy_loss(
    head: nn.Module,
    config: RouterConfig,
    share: Share,
    inputs_UI: Tensor,
    multiplier: float,
    temperature: float,
    reduce: Reduce,
) -> tuple[Tensor, Cvar, float, float]:
    """This rank's loss, and the batch's CVaR, cost and Brier score (0 unless `joint`)."""
    logits_U = head(inputs_UI)
    outcomes = surrogate(config, torch.sigmoid(logits_U / temperature)[share.places_ET], share)
    loss, tail, cost = constrained_loss(outcomes, share.totals, multiplier, config.tail, reduce)
    if config.mode == "decoupled":
        return loss, tail, cost, 0.0
    brier = brier_sum(torch.sigmoid(logits_U)[share.place_N], share.risk["rho"], share.n["rho"])
    if config.ablation != "no_brier":
        loss = loss + share.totals.ranks * config.lambda_brier * brier / share.n_total["rho"]
    return loss, tail, cost, float(reduce(brier.detach())) / share.n_total["rho"]


def surrogate(config: RouterConfig, p_ET: Tensor, share: Share) -> Outcomes:
    """Failures and cost of escalating with probabilities p."""
    if config.surrogate == "paper":
        return paper_outcomes(p_ET, share.episodes, share.totals)
    return latched_outcomes(
        p_ET, share.episodes, share.totals, config.slm_cost / config.teacher_cost
    )


def policy_inputs(
    heads: dict[str, Mlp], calibrators: dict[str, Calibrator], f_NF: Tensor
) -> Tensor:
    """[calibrated rho, rho1, rhoT, f], constants to the policy: no gradient goes back to the risks.
    f alone without heads.
    """
    if not heads:
        return f_NF
    risks = predicted(heads, f_NF)
    stacked = torch.from_numpy(
        np.stack([calibrators[name](risks[name]) for name in RISKS], axis=1)
    ).to(f_NF)
    return torch.cat([stacked, f_NF], dim=1)


def constant_risk(features: int) -> Mlp:
    """A head that says 1/2 everywhere: no risk is estimated."""
    return Mlp(((np.zeros((1, features)), np.zeros(1)),))


def predicted(heads: dict[str, Mlp], f_NF: Tensor) -> dict[str, Array]:
    """Raw risks at states."""
    rows = to_numpy(f_NF)
    return {name: sigmoid(head(rows)) for name, head in heads.items() if name in ESTIMATES}


def gradient_norm(module: nn.Module) -> float:
    """Norm of the gradient that the ranks have averaged."""
    squares = [
        float((p.grad.double() ** 2).sum()) for p in module.parameters() if p.grad is not None
    ]
    return math.sqrt(sum(squares))


def _temperature(config: RouterConfig, step: int) -> float:
    """From 1 geometrically to the end value; `joint` must stay a probability of failure and keeps
    1.
    """
    if config.mode == "joint":
        return 1.0
    return float(config.temperature_end ** ((step - 1) / max(1, config.policy_steps - 1)))


def _head(inputs: int, hidden: tuple[int, ...], seed: int, name: str) -> Head:
    return Head(inputs, hidden, stable_hash("router", seed, name) % 2**31)


def _scores(heads: nn.ModuleDict, share: Share) -> dict[str, Tensor]:
    """Brier sums of the risks; the log loss of dissent, whose small values decide where the SLM is
    sure.
    """
    sums = {}
    for name, head in heads.items():
        logits_N = head(share.f_UF)[share.place_N]
        label_N = share.risk[name]
        n_N = share.n[name]
        sums[name] = (
            brier_sum(torch.sigmoid(logits_N), label_N, n_N)
            if name in RISKS
            else log_loss_sum(logits_N, label_N, n_N)
        )
    return sums


def _copied(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The parameters as they are now."""
    return {f"{prefix}{name}": values.clone() for name, values in module.state_dict().items()}


def _exported(head: nn.Module) -> Mlp:
    assert isinstance(head, Head)
    return head.exported()


def _means(reduce: Reduce, sums: dict[str, Tensor], share: Share) -> dict[str, float]:
    totals = reduce(torch.stack([total.detach() for total in sums.values()])).tolist()
    return {name: total / share.n_total[name] for name, total in zip(sums, totals, strict=True)}
