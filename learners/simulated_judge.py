"""Judges of simulated routers: thresholds are chosen on validation labels, and what they deploy is evaluated exactly.

Nothing that is printed of cost, failure and CVaR is sampled but the paired interval: the rest is dynamic programming on the world.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from envs.simulated_exact import Exact, Outcome, scores
from envs.simulated_labels import all_cells, cell_of
from envs.simulated_optimum import Frontier
from envs.simulated_world import symptom
from learners.router import RouterResult, predict_states
from r2v_dist.labels import LabelTable
from r2v_dist.latched import LatchedEpisodes, cheapest_mix, sweep, threshold_outcomes
from r2v_dist.operating_point import Mix, bayes_escalates
from r2v_dist.risk_measures import cvar
from r2v_dist.router_model import RouterModel
from r2v_dist.seeding import rng_for
from r2v_dist.simulated_config import SimulatedConfig

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One deployed router. Exact: cost in teacher calls an episode, mean failure, CVaR. `mix` is what validation chose, None where
    there was nothing to choose. Where validation finds nothing feasible, the teacher acts alone."""

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
        return alone if self.mix.share == 1.0 else f"{alone} ({self.mix.share:.0%}), {self.mix.cheap:.4g}"


@dataclass(frozen=True)
class SimulatedReport:
    """All rows, the best cost at CVaR <= epsilon of latched routers and of those that may hand back."""

    rows: tuple[Row, ...]
    optimum: float
    optimum_unlatched: float
    mean_optimum: tuple[float, float]
    """Cost and CVaR of the best router whose mean failure is at most epsilon."""
    cvar_gain: tuple[float, float, float] | None
    """CVaR of r2v_no_cvar minus that of r2v on paired test episodes: estimate and 95 % interval by task bootstrap."""

    def row(self, name: str) -> Row:
        """The row of a router."""
        return next(row for row in self.rows if row.name == name)


def evaluate(config: SimulatedConfig, exact: Exact, results: dict[str, RouterResult]) -> SimulatedReport:
    """Exact rows of trained routers and baselines, with thresholds that validation chose."""
    router, zs = config.router, range(config.seeds)
    latched, unlatched = Frontier(exact), Frontier(exact, latched=False)
    mean_best = latched.best(zs, 1.0, router.epsilon)
    models = {name: RouterModel.load(Path(result.output)) for name, result in results.items()}
    judge = _Judge(config, exact)
    cells = all_cells(exact.world)
    rows = [judge.fixed("slm_only", exact.evaluate(np.zeros(exact.shape))), judge.fixed("teacher_only", exact.teacher_only())]
    rows.append(judge.random())
    rows += [judge.row(name, *scores) for name, scores in _baseline_scores(exact, judge.labels, cells).items()]
    for name, model in models.items():
        alpha = 1.0 if name == "r2v_no_cvar" else router.alpha
        score = model.predict(cells).score
        rows.append(
            judge.row(name, predict_states(model, judge.labels.features_NF).score, score, alpha, f"constraint {results[name].constraint}")
        )
    if "r2v" in models:
        rows.append(_bayes(config, exact, models["r2v"], judge))
    return SimulatedReport(
        tuple(rows),
        latched.best(zs, router.alpha, router.epsilon).cost,
        unlatched.best(zs, router.alpha, router.epsilon).cost,
        (mean_best.cost, cvar(mean_best.failure_V[[symptom(z) for z in zs]], router.alpha)),
        _paired_gain(config, models, {row.name: row.mix for row in rows}),
    )


def _bayes(config: SimulatedConfig, exact: Exact, model: RouterModel, judge: "_Judge") -> Row:
    """The trained risks at the Bayes operating point, one step of the teacher at a time: nothing is chosen on validation."""
    router, risks = config.router, model.predict(all_cells(exact.world))
    assert risks.rho1 is not None
    escalates = bayes_escalates(risks.rho, risks.rho1, 1.0, router.slm_cost / router.teacher_cost, router.kappa).reshape(exact.shape)
    row = judge.fixed("r2v_bayes", exact.evaluate(escalates.astype(np.float64), latched=False))
    return replace(row, note=f"per step, a failure costs {router.kappa:g} teacher calls")


class _Judge:
    """Chooses operating points on validation labels and evaluates what they deploy."""

    def __init__(self, config: SimulatedConfig, exact: Exact) -> None:
        self._config, self._exact = config, exact
        self.labels = LabelTable.load(labels_path(config, "validation"))
        self._episodes = LatchedEpisodes.of(self.labels)

    def fixed(self, name: str, outcome: Outcome, mix: Mix | None = None, note: str = "") -> Row:
        """A policy as it is."""
        [score] = scores(outcome, range(self._config.seeds), self._config.router.alpha)
        return Row(name, score.cost, score.failure, score.cvar, mix, note)

    def random(self) -> Row:
        """Escalates every step with one probability, here 1 - threshold."""
        draws_N = np.random.default_rng(self._config.seed).random(len(self.labels))
        return self._deployed("random", draws_N, lambda tau: np.full(self._exact.shape, min(max(0.0, 1.0 - tau), 1.0)))

    def row(self, name: str, score_N: Array, score_cells: Array, alpha: float | None = None, note: str = "") -> Row:
        """A score: by validation state, and by cell in the order of `all_cells`. `alpha` is the tail that validation bounds."""
        cells = score_cells.reshape(self._exact.shape)
        return self._deployed(name, score_N, lambda tau: (cells >= tau).astype(np.float64), alpha, note)

    def _deployed(self, name: str, score_N: Array, escalates: Callable[[float], Array], alpha: float | None = None, note: str = "") -> Row:
        router = self._config.router
        points = sweep(self._episodes, score_N, alpha or router.alpha, router.slm_cost / router.teacher_cost)
        mix = cheapest_mix(points, router.epsilon)
        if mix is None:
            return self.fixed(name, self._exact.teacher_only(), note="infeasible on validation: the teacher acts alone")
        expensive, cheap = (self._exact.evaluate(escalates(tau)) for tau in (mix.expensive, mix.cheap))
        return self.fixed(name, expensive.mixed(cheap, mix.share), mix, note)


def _baseline_scores(exact: Exact, labels: LabelTable, cells: Array) -> dict[str, tuple[Array, Array]]:
    """Scores of the baselines at validation states and in all cells; the last three know the truth."""

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

    at_states, in_cells = seen(labels.features_NF), seen(cells)
    return {name: (at_states[name], in_cells[name]) for name in at_states}


def _paired_gain(
    config: SimulatedConfig, models: dict[str, RouterModel], mixes: dict[str, Mix | None], resamples: int = 1000
) -> tuple[float, float, float] | None:
    if not {"r2v", "r2v_no_cvar"} <= set(models):
        return None
    labels = LabelTable.load(labels_path(config, "test"))
    episodes = LatchedEpisodes.of(labels)
    tasks, task_E = np.unique(episodes.task_E, return_inverse=True)
    _, seed_E = np.unique(episodes.z_E, return_inverse=True)
    losses = {}
    for name in ("r2v", "r2v_no_cvar"):
        mix = mixes[name] or Mix(-np.inf, -np.inf, 1.0, np.nan)  # where nothing is feasible the teacher acts alone
        score_N = predict_states(models[name], labels.features_NF).score
        expensive_E, cheap_E = (threshold_outcomes(episodes, score_N, tau, 0.0)[0] for tau in (mix.expensive, mix.cheap))
        losses[name] = np.zeros((len(tasks), int(seed_E.max()) + 1))
        losses[name][task_E, seed_E] = mix.share * expensive_E + (1 - mix.share) * cheap_E
    rng = np.random.default_rng(rng_for("simulated-bootstrap", config.seed).getrandbits(32))

    def gain(rows: npt.NDArray[np.int64]) -> float:
        with_cvar, without = (cvar(losses[name][rows].mean(axis=0), config.router.alpha) for name in ("r2v", "r2v_no_cvar"))
        return without - with_cvar

    draws = [gain(rng.integers(0, len(tasks), len(tasks))) for _ in range(resamples)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return gain(np.arange(len(tasks))), float(low), float(high)


def labels_path(config: SimulatedConfig, split: str) -> Path:
    """The label table of a split."""
    return config.folder / "labels" / f"{split}.arrow"
