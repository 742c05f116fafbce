"""The one rule by which validation chooses a threshold (METHOD section 8).

A threshold is not chosen because a few games flatter it: what it loses against the teacher counts by its upper confidence limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from r2v_dist.config import RunConfig
from r2v_dist.evaluation import CVAR_ALPHA, ArmOutcomes
from r2v_dist.risk_measures import cvar_failure, cvar_weights

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tolerance:
    """How much CVaR of failure above that of the teacher alone a threshold may have, and with what confidence."""

    epsilon: float
    confidence: float
    resamples: int
    seed: int

    @classmethod
    def of(cls, config: RunConfig, training_seed: int) -> "Tolerance":
        """Of a run's configuration."""
        evaluate = config.evaluate
        return cls(evaluate.epsilon, evaluate.confidence, evaluate.bootstrap, config.seed + training_seed)

    def keeps(self, arm: ArmOutcomes, teacher: ArmOutcomes) -> bool:
        """Whether the upper limit of the excess, by bootstrap over tasks (pairs of arm and teacher), is at most epsilon."""
        n_tasks, n_seeds = arm.success_TZ.shape
        counts_BT = np.random.default_rng(self.seed).multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), self.resamples) / n_tasks
        weights_Z = cvar_weights(np.arange(n_seeds, 0, -1, dtype=np.float64), tail_of(arm.name))  # of losses in descending order

        def tails_B(success_TZ: Array) -> Array:
            return -np.sort(counts_BT @ (success_TZ - 1.0), axis=1) @ weights_Z

        excess_B = tails_B(arm.success_TZ) - tails_B(teacher.success_TZ)
        return float(np.quantile(excess_B, self.confidence)) <= self.epsilon + 1e-9


def tail_of(router: str) -> float:
    """The tail mass by which a router is judged: the one without CVaR goes by mean failures."""
    return 1.0 if router == "r2v_no_cvar" else CVAR_ALPHA


def selected_thresholds(arms: Sequence[ArmOutcomes], tolerance: Tolerance) -> dict[str, float]:
    """The threshold of every router on validation episodes: the cheapest in teacher calls that keeps the tolerance, for no router is
    asked to do better than its teacher; where none keeps it, the one of least CVaR of failure."""
    teacher = next(arm for arm in arms if arm.name == "teacher_only")

    def preference(arm: ArmOutcomes) -> tuple[bool, float, float]:
        kept = tolerance.keeps(arm, teacher)
        return not kept, 0.0 if kept else cvar_failure(arm.success_TZ, tail_of(arm.name)), float(arm.calls_TZ.sum())

    return {arm.name: arm.threshold for arm in sorted(arms, key=preference)[::-1] if arm.threshold is not None}
