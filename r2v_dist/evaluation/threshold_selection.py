"""The one rule by which validation chooses a threshold (docs/method.md, section 8).

A threshold is not chosen because a few games flatter it: what it loses against the teacher counts
by an upper quantile over bootstrap samples of the tasks. That quantile is a margin and no
confidence limit: where nothing was lost it is 0 for any number of tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from r2v_dist.config.run import RunConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.evaluation.outcomes import ArmOutcomes
from r2v_dist.router.names import DRAWN
from r2v_dist.stats.cvar import cvar_failure, cvars
from r2v_dist.storage import rollouts as rollout_store

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tolerance:
    """How much CVaR of failure above that of teacher-only a threshold may have, and in what
    share of the bootstrap samples (`margin`). `alpha` is the tail mass of CVaR.
    """

    epsilon: float
    margin: float
    alpha: float
    resamples: int
    seed: int

    @classmethod
    def of(cls, config: RunConfig, training_seed: int) -> "Tolerance":
        """Of a run's configuration."""
        evaluate = config.evaluate
        return cls(
            evaluate.epsilon,
            evaluate.confidence,
            config.alpha,
            evaluate.bootstrap,
            config.seed + training_seed,
        )

    def tail(self, router: str) -> float:
        """The tail mass by which a router is judged: the one without CVaR goes by mean failures."""
        return 1.0 if router == "r2v_no_cvar" else self.alpha

    def keeps(self, arm: ArmOutcomes, teacher: ArmOutcomes) -> bool:
        """Whether the excess is at most epsilon in a share `margin` of the bootstrap samples of
        tasks.

        A task counts as a pair of arm and teacher.
        """
        n_tasks = len(arm.success_TZ)
        counts_BT = (
            np.random.default_rng(self.seed).multinomial(
                n_tasks, np.full(n_tasks, 1 / n_tasks), self.resamples
            )
            / n_tasks
        )
        alpha = self.tail(arm.name)

        def tails_B(success_TZ: Array) -> Array:
            return cvars(counts_BT @ (1.0 - success_TZ), alpha)

        excess_B = tails_B(arm.success_TZ) - tails_B(teacher.success_TZ)
        return float(np.quantile(excess_B, self.margin)) <= self.epsilon + 1e-9


def selected_thresholds(arms: Sequence[ArmOutcomes], tolerance: Tolerance) -> dict[str, float]:
    """The threshold of every router on validation episodes: the cheapest in teacher calls that
    keeps the tolerance, for no router is asked to do better than its teacher; where none keeps it,
    the one of least CVaR of failure.
    """
    teacher = next(arm for arm in arms if arm.name == "teacher_only")

    def preference(arm: ArmOutcomes) -> tuple[bool, float, float]:
        tolerable = tolerance.keeps(arm, teacher)
        return (
            not tolerable,
            0.0 if tolerable else cvar_failure(arm.success_TZ, tolerance.tail(arm.name)),
            float(arm.calls_TZ.sum()),
        )

    return {
        arm.name: arm.threshold
        for arm in sorted(arms, key=preference)[::-1]
        if arm.threshold is not None
    }


def grid(folder: Path, names: tuple[str, ...], rates: tuple[float, ...]) -> dict[str, list[float]]:
    """Thresholds of every router, ascending: where its score along the SLM's own path exceeds them
    at the given rates.

    Every episode weighs the same: a router that helps leaves the long tails of episodes in which
    SLM-only is stuck.
    """
    table = rollout_store.read(folder, ["key", "router", "threshold", "score"])
    table = table.filter(
        pa.array(
            np.isposinf(table["threshold"].to_numpy()) & np.isfinite(table["score"].to_numpy())
        )
    )
    routers = np.array(table["router"].to_pylist())
    scores = table["score"].to_numpy()
    _, episode, steps = np.unique(
        np.array(table["key"].to_pylist()), return_inverse=True, return_counts=True
    )
    thresholds: dict[str, list[float]] = {}
    for name in names:
        if name in DRAWN:
            thresholds[name] = sorted(rates)
            continue
        of_router = routers == name
        order = np.lexsort((episode[of_router], scores[of_router]))
        levels = scores[of_router][order]
        weight = (1.0 / steps[episode[of_router]])[order]
        quantiles = _quantiles(levels, weight, rates)
        # A threshold that every step reaches is teacher-only.
        lowest = levels[0] if len(levels) else 0.0
        thresholds[name] = sorted({level for level in quantiles if level > lowest})
        if name == "r2v" and not thresholds[name]:
            raise RuntimeFailure(
                f"{folder}: r2v's score is {lowest:.3g} nearly everywhere on the validation "
                f"tasks, so no threshold tells states apart; "
                "raise labels.pairs and labels.states, or set router.score = value"
            )
    return thresholds


def _quantiles(levels: Array, weight: Array, rates: tuple[float, ...]) -> list[float]:
    """What a share of the weight lies above, for every rate; `levels` ascend."""
    if not len(levels):
        return []
    below = np.cumsum(weight) / weight.sum()
    places = np.searchsorted(below, 1 - np.array(rates))
    return [float(level) for level in levels[np.minimum(places, len(levels) - 1)]]
