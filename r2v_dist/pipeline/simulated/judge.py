"""Judges of simulated routers: thresholds are chosen on validation labels, and what they deploy is
evaluated exactly.

Every router is deployed by the same rule, the cheapest play of two thresholds with CVaR at most
epsilon on validation labels, so that costs are compared at equal CVaR. Nothing that is printed of
cost, failure and CVaR is sampled but the paired interval: the rest is dynamic programming on the
world.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from envs.simulated.exact import Exact, Outcome, scores
from envs.simulated.labels import all_cells, cell_of
from envs.simulated.optimum import Frontier
from learners.router.train import RouterResult
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.evaluation.handover import (
    LatchedEpisodes,
    LatchedPoint,
    cheapest_mix,
    sweep,
    threshold_outcomes,
)
from r2v_dist.labels.table import LabelTable
from r2v_dist.router.model import RouterModel, predict_states
from r2v_dist.seeding import rng_for
from r2v_dist.stats.cvar import cvars
from r2v_dist.stats.mixing import Mix, bayes_escalates

Array = npt.NDArray[np.float64]
_RESAMPLES = 500
_THRESHOLDS = 40
"""Thresholds at which test episodes are played for the paired interval, besides both ends."""


@dataclass(frozen=True)
class Row:
    """One deployed router. Exact: cost in teacher calls an episode, mean failure, CVaR. `mix` is
    what validation chose, None where there was nothing to choose. Where validation finds nothing
    feasible, the teacher acts alone.
    """

    name: str
    cost: float
    failure: float
    cvar: float
    mix: Mix | None = None
    note: str = ""

    @property
    def threshold(self) -> str:
        """The threshold, or both with the share of episodes that play the first."""
        if self.mix is None:
            return ""
        alone = f"{self.mix.expensive:.4g}"
        return (
            alone
            if self.mix.share == 1.0
            else f"{alone} ({self.mix.share:.0%}), {self.mix.cheap:.4g}"
        )


@dataclass(frozen=True)
class SimulatedReport:
    """All rows, the best cost at CVaR <= epsilon of latched routers and of those that may hand
    back.
    """

    rows: tuple[Row, ...]
    optimum: float
    optimum_unlatched: float
    mean_bound: float
    """The bound on mean failure under which the best router has CVaR epsilon; r2v_no_cvar is
    trained with it.
    """
    mean_optimum: float
    """The cost of that router."""
    cvar_saving: tuple[float, float, float] | None
    """Cost of r2v_no_cvar minus that of r2v, both with CVaR epsilon on the same test episodes:
    estimate and 95 % interval by task bootstrap, thresholds matched anew in every sample.
    """

    def row(self, name: str) -> Row:
        """The row of a router."""
        return next(row for row in self.rows if row.name == name)


def evaluate(
    config: SimulatedConfig, exact: Exact, results: dict[str, RouterResult], mean_bound: float
) -> SimulatedReport:
    """Exact rows of trained routers and baselines, with thresholds that validation chose."""
    router = config.router
    zs = range(config.seeds)
    latched = Frontier(exact)
    unlatched = Frontier(exact, latched=False)
    models = {name: RouterModel.load(Path(result.output)) for name, result in results.items()}
    judge = _Judge(config, exact)
    cells = all_cells(exact.world)
    rows = [
        judge.fixed("slm_only", exact.evaluate(np.zeros(exact.shape))),
        judge.fixed("teacher_only", exact.teacher_only()),
    ]
    rows.append(judge.random())
    rows += [
        judge.row(name, *scores)
        for name, scores in _baseline_scores(exact, judge.labels, cells).items()
    ]
    for name, model in models.items():
        at_states = predict_states(model, judge.labels.features_NF).score
        note = f"constraint {results[name].constraint}"
        rows.append(judge.row(name, at_states, model.predict(cells).score, note))
    if "r2v" in models:
        rows.append(_bayes(config, exact, models["r2v"], judge))
    return SimulatedReport(
        tuple(rows),
        latched.best(zs, router.alpha, router.epsilon).cost,
        unlatched.best(zs, router.alpha, router.epsilon).cost,
        mean_bound,
        latched.best(zs, 1.0, mean_bound).cost,
        cvar_saving(config, models),
    )


def _bayes(config: SimulatedConfig, exact: Exact, model: RouterModel, judge: "_Judge") -> Row:
    """The trained risks at the Bayes operating point, one step of the teacher at a time: nothing is
    chosen on validation.
    """
    router = config.router
    risks = model.predict(all_cells(exact.world))
    assert risks.rho1 is not None
    escalates = bayes_escalates(
        risks.rho, risks.rho1, 1.0, router.slm_cost / router.teacher_cost, router.kappa
    ).reshape(exact.shape)
    row = judge.fixed("r2v_bayes", exact.evaluate(escalates.astype(np.float64), latched=False))
    return replace(row, note=f"per step, a failure costs {router.kappa:g} teacher calls")


class _Judge:
    """Chooses operating points on validation labels and evaluates what they deploy."""

    def __init__(self, config: SimulatedConfig, exact: Exact) -> None:
        self._config = config
        self._exact = exact
        self.labels = LabelTable.load(labels_path(config, "validation"))
        self._episodes = LatchedEpisodes.of(self.labels)

    def fixed(self, name: str, outcome: Outcome, mix: Mix | None = None, note: str = "") -> Row:
        """A policy as it is."""
        [score] = scores(outcome, range(self._config.seeds), self._config.router.alpha)
        return Row(name, score.cost, score.failure, score.cvar, mix, note)

    def random(self) -> Row:
        """Escalates every step with one probability, here 1 - threshold."""
        draws_N = np.random.default_rng(self._config.seed).random(len(self.labels))
        return self._deployed(
            "random", draws_N, lambda tau: np.full(self._exact.shape, min(max(0.0, 1.0 - tau), 1.0))
        )

    def row(self, name: str, score_N: Array, score_cells: Array, note: str = "") -> Row:
        """A score: by validation state, and by cell in the order of `all_cells`."""
        cells = score_cells.reshape(self._exact.shape)
        return self._deployed(name, score_N, lambda tau: (cells >= tau).astype(np.float64), note)

    def _deployed(
        self, name: str, score_N: Array, escalates: Callable[[float], Array], note: str = ""
    ) -> Row:
        router = self._config.router
        points = sweep(self._episodes, score_N, router.alpha, router.slm_cost / router.teacher_cost)
        mix = cheapest_mix(points, router.epsilon)
        if mix is None:
            return self.fixed(
                name,
                self._exact.teacher_only(),
                note="infeasible on validation: the teacher acts alone",
            )
        expensive, cheap = (
            self._exact.evaluate(escalates(tau)) for tau in (mix.expensive, mix.cheap)
        )
        return self.fixed(name, expensive.mixed(cheap, mix.share), mix, note)


def _baseline_scores(
    exact: Exact, labels: LabelTable, cells: Array
) -> dict[str, tuple[Array, Array]]:
    """Scores of the baselines at validation states and in all cells; the last three
    know the truth.
    """

    def seen(f_NF: Array) -> dict[str, Array]:
        t, part, jammed, cue, symptom = cell_of(exact.world, f_NF)
        gain = (exact.rho - exact.rhoT)[t, part, jammed, cue, symptom]
        return {
            "entropy": cue.astype(np.float64),
            "heuristic": np.maximum(cue, jammed * (exact.world.cues - 1.0)),
            "stuck_latch": jammed.astype(np.float64),
            "query_level": np.where(t == 0, exact.rho[0, 0, 0, cue, symptom], -1.0),
            "true_rho": exact.rho[t, part, jammed, cue, symptom],
            "true_delta": (exact.rho - exact.rho1)[t, part, jammed, cue, symptom],
            "true_gain_per_call": gain / exact.m[t, part, jammed, cue, symptom],
        }

    at_states = seen(labels.features_NF)
    in_cells = seen(cells)
    return {name: (at_states[name], in_cells[name]) for name in at_states}


def cvar_saving(
    config: SimulatedConfig, models: dict[str, RouterModel]
) -> tuple[float, float, float] | None:
    """What bounding CVaR in training saves at equal CVaR; None without both routers."""
    if not {"r2v", "r2v_no_cvar"} <= set(models):
        return None
    labels = LabelTable.load(labels_path(config, "test"))
    with_cvar, without = (
        _TestPlays.of(config, labels, predict_states(models[name], labels.features_NF).score)
        for name in ("r2v", "r2v_no_cvar")
    )
    tasks = with_cvar.tasks
    rng = np.random.default_rng(rng_for("simulated-bootstrap", config.seed).getrandbits(32))
    counts_BT = rng.multinomial(tasks, np.full(tasks, 1 / tasks), _RESAMPLES) / tasks
    counts_BT = np.concatenate(
        [np.full((1, tasks), 1 / tasks), counts_BT]
    )  # the first are the tasks themselves
    saving_B = without.matched(counts_BT, config) - with_cvar.matched(counts_BT, config)
    low, high = np.quantile(saving_B[1:], [0.025, 0.975])
    return float(saving_B[0]), float(low), float(high)


@dataclass(frozen=True)
class _TestPlays:
    """One router on the test episodes at A thresholds around the bound: failure by task and seed,
    cost by task.
    """

    failure_ATZ: Array
    cost_AT: Array

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.cost_AT[0])

    @classmethod
    def of(cls, config: SimulatedConfig, labels: LabelTable, score_N: Array) -> "_TestPlays":
        """Play the thresholds at which CVaR is within a factor of two of epsilon, and both ends."""
        router = config.router
        episodes = LatchedEpisodes.of(labels)
        price = router.slm_cost / router.teacher_cost
        points = sweep(episodes, score_N, router.alpha, price)
        near = [point.threshold for point in points if 0.5 <= point.cvar / router.epsilon <= 2.0]
        thresholds = near[:: 1 + len(near) // _THRESHOLDS]
        tasks, task_E = np.unique(episodes.task_E, return_inverse=True)
        zs, seed_E = np.unique(episodes.z_E, return_inverse=True)
        failure_ATZ = np.zeros((len(thresholds) + 2, len(tasks), len(zs)))
        cost_ATZ = np.zeros_like(failure_ATZ)
        for a, tau in enumerate((-np.inf, *thresholds, np.inf)):
            failure_E, cost_E = threshold_outcomes(episodes, score_N, tau, price)
            failure_ATZ[a, task_E, seed_E] = failure_E
            cost_ATZ[a, task_E, seed_E] = cost_E
        return cls(failure_ATZ, cost_ATZ.mean(axis=2))

    def matched(self, counts_BT: Array, config: SimulatedConfig) -> Array:
        """The least cost [B] with CVaR at most epsilon on tasks that count so much; that of the
        teacher alone where no threshold keeps it.
        """
        failure_BAZ = np.einsum("bt,atz->baz", counts_BT, self.failure_ATZ, optimize=True)
        cost_BA = counts_BT @ self.cost_AT.T
        tails_BA = cvars(failure_BAZ, config.router.alpha)
        failure_BA = failure_BAZ.mean(axis=2)
        costs = []
        for cost_A, failure_A, tail_A in zip(cost_BA, failure_BA, tails_BA, strict=True):
            rows = zip(cost_A.tolist(), failure_A.tolist(), tail_A.tolist(), strict=True)
            points = [LatchedPoint(float(a), *row) for a, row in enumerate(rows)]
            mix = cheapest_mix(points, config.router.epsilon)
            costs.append(float(cost_A[0]) if mix is None else mix.cost)
        return np.array(costs)


def labels_path(config: SimulatedConfig, split: str) -> Path:
    """The label table of a split."""
    return config.folder / "labels" / f"{split}.arrow"
