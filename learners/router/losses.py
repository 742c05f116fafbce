"""The router's losses (docs/method.md, section 7), as sums that add up over data-parallel ranks.

A rank holds whole episodes; what it returns are sums, and every mean is taken after the sums of all
ranks are added, so that CVaR, cost and Brier are those of the whole batch for any number of ranks.
DeepSpeed averages gradients over W ranks, hence the factor W in every loss. Axes: E episodes, T
steps, Z seeds, N labelled states.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from r2v_dist.stats.cvar import cvar, cvar_weights, tail_threshold

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor over all ranks."""


@dataclass(frozen=True)
class Episodes:
    """SLM-only episodes of one rank in which every step has a Tinf label; steps beyond the end are
    masked.
    """

    mask_ET: Tensor
    rhoT_ET: Tensor
    m_ET: Tensor
    lost_E: Tensor
    """1 - S."""
    seed_E: Tensor
    """Index 0..Z-1 of the episode's seed."""


@dataclass(frozen=True)
class Totals:
    """What every rank knows of the whole batch."""

    ranks: int
    episodes_Z: Tensor
    steps_Z: Tensor
    teacher_only: float
    """Mean teacher steps of a hand-over at the first step: the unit of the latched cost."""


@dataclass(frozen=True)
class Outcomes:
    """Sums over this rank's episodes; failures [Z] and what they are divided by, cost and what it
    is divided by.
    """

    failure_Z: Tensor
    per_Z: Tensor
    cost: Tensor
    per: float


@dataclass(frozen=True)
class Cvar:
    """CVaR of the whole batch: value, eta = F_[k+1], and its gradient w_z."""

    value: float
    eta: float
    weight_Z: Tensor


def brier_sum(risk_N: Tensor, rho_N: Tensor, n_N: Tensor) -> Tensor:
    """sum n (r - rho)^2; divide by the n of all ranks. Exact for soft labels, up to a constant."""
    return (n_N * (risk_N - rho_N) ** 2).sum()


def log_loss_sum(logits_N: Tensor, share_N: Tensor, n_N: Tensor) -> Tensor:
    """-sum n (share log p + (1 - share) log (1 - p)); divide by the n of all ranks. Unlike Brier it
    tells .001 from .03.
    """
    return torch.nn.functional.binary_cross_entropy_with_logits(
        logits_N, share_N, n_N, reduction="sum"
    )


def latched(p_ET: Tensor, episodes: Episodes) -> tuple[Tensor, Tensor, Tensor]:
    """Expected failure, teacher steps and SLM calls [E] when the first escalation, drawn ~ p, hands
    over for good.

    u_t = p_t prod_{j<t} (1 - p_j), F = sum u rhoT + prod (1 - p) (1 - S), teacher steps = sum u m.
    The SLM has proposed at every step up to the hand-over, that one included.
    """
    p_ET = p_ET * episodes.mask_ET
    survive_ET = torch.cumprod(1 - p_ET, dim=1)
    before_ET = torch.cat([torch.ones_like(p_ET[:, :1]), survive_ET[:, :-1]], dim=1)
    u_ET = p_ET * before_ET
    failure_E = (u_ET * episodes.rhoT_ET).sum(dim=1) + survive_ET[:, -1] * episodes.lost_E
    teacher_E = (u_ET * episodes.m_ET).sum(dim=1)
    slm_E = (before_ET * episodes.mask_ET).sum(dim=1)
    return failure_E, teacher_E, slm_E


def latched_outcomes(
    p_ET: Tensor, episodes: Episodes, totals: Totals, slm_price: float
) -> Outcomes:
    """Latched surrogate: F_z is a mean over episodes, cost a share of what teacher-only costs."""
    failure_E, teacher_E, slm_E = latched(p_ET, episodes)
    cost = (teacher_E + slm_price * slm_E).sum() / totals.teacher_only
    return Outcomes(
        _by_seed(failure_E, episodes, totals),
        totals.episodes_Z,
        cost,
        float(totals.episodes_Z.sum()),
    )


def paper_outcomes(p_ET: Tensor, episodes: Episodes, totals: Totals) -> Outcomes:
    """The paper's surrogate: F_z = mean_i (1 - S_i)(1 - p_i) over steps i, cost = the
    mean of p_i.
    """
    p_ET = p_ET * episodes.mask_ET
    failure_E = ((1 - p_ET) * episodes.mask_ET).sum(dim=1) * episodes.lost_E
    return Outcomes(
        _by_seed(failure_E, episodes, totals),
        totals.steps_Z,
        p_ET.sum(),
        float(totals.steps_Z.sum()),
    )


def exact_cvar(failure_Z: Tensor, alpha: float) -> Cvar:
    """CVaR_alpha over seeds of the whole batch's F_z, with the gradient that r2v_dist.stats.cvar
    gives it.
    """
    F_Z = failure_Z.detach().cpu().numpy()
    weight_Z = torch.from_numpy(cvar_weights(F_Z, alpha)).to(failure_Z)
    return Cvar(cvar(F_Z, alpha), tail_threshold(F_Z, alpha), weight_Z)


def constrained_loss(
    outcomes: Outcomes, totals: Totals, multiplier: float, alpha: float, reduce: Reduce
) -> tuple[Tensor, Cvar, float]:
    """This rank's part of cost + lambda CVaR, whose gradients average to the batch's; with it CVaR
    and cost of the batch.
    """
    own_sums = torch.cat([outcomes.failure_Z.detach(), outcomes.cost.detach()[None]])
    sums = reduce(own_sums)
    failure_Z = sums[:-1] / outcomes.per_Z
    cost = float(sums[-1]) / outcomes.per

    tail = exact_cvar(failure_Z, alpha)
    own_cost = outcomes.cost / outcomes.per
    own_cvar = (tail.weight_Z * outcomes.failure_Z / outcomes.per_Z).sum()
    loss = totals.ranks * (own_cost + multiplier * own_cvar)
    return loss, tail, cost


def ascend(multiplier: float, violation: float, learning_rate: float, most: float) -> float:
    """lambda <- clip(lambda + lr_lambda (CVaR - eps), 0, Lambda)."""
    return min(max(multiplier + learning_rate * violation, 0.0), most)


def _by_seed(values_E: Tensor, episodes: Episodes, totals: Totals) -> Tensor:
    return torch.zeros_like(totals.episodes_Z).index_add(0, episodes.seed_E, values_E)
