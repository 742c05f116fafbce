"""The one rule by which validation chooses a threshold (METHOD section 8).

A threshold is not chosen because a few games flatter it: what it loses against the teacher counts by
an upper quantile over bootstrap samples of the tasks. That quantile is a margin and no confidence
limit: where nothing was lost it is 0 for any number of tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.outcomes import ArmOutcomes
from r2v_dist.stats.cvar import cvar_failure, cvars

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tolerance:
    """How much CVaR of failure above that of the teacher alone a threshold may have, and in what share
    of the bootstrap samples (`margin`). `alpha` is the tail mass of CVaR."""

    epsilon: float
    margin: float
    alpha: float
    resamples: int
    seed: int

    @classmethod
    def of(cls, config: RunConfig, training_seed: int) -> "Tolerance":
        """Of a run's configuration."""
        evaluate = config.evaluate
        return cls(evaluate.epsilon, evaluate.confidence, config.alpha, evaluate.bootstrap, config.seed + training_seed)

    def tail(self, router: str) -> float:
        """The tail mass by which a router is judged: the one without CVaR goes by mean failures."""
        return 1.0 if router == "r2v_no_cvar" else self.alpha

    def keeps(self, arm: ArmOutcomes, teacher: ArmOutcomes) -> bool:
        """Whether the excess is at most epsilon in a share `margin` of the bootstrap samples of tasks.

        A task counts as a pair of arm and teacher.
        """
        n_tasks = len(arm.success_TZ)
        counts_BT = np.random.default_rng(self.seed).multinomial(n_tasks, np.full(n_tasks, 1 / n_tasks), self.resamples) / n_tasks
        alpha = self.tail(arm.name)

        def tails_B(success_TZ: Array) -> Array:
            return cvars(counts_BT @ (1.0 - success_TZ), alpha)

        excess_B = tails_B(arm.success_TZ) - tails_B(teacher.success_TZ)
        return float(np.quantile(excess_B, self.margin)) <= self.epsilon + 1e-9


def selected_thresholds(arms: Sequence[ArmOutcomes], tolerance: Tolerance) -> dict[str, float]:
    """The threshold of every router on validation episodes: the cheapest in teacher calls that keeps the tolerance, for no router is
    asked to do better than its teacher; where none keeps it, the one of least CVaR of failure."""
    teacher = next(arm for arm in arms if arm.name == "teacher_only")

    def preference(arm: ArmOutcomes) -> tuple[bool, float, float]:
        kept = tolerance.keeps(arm, teacher)
        return not kept, 0.0 if kept else cvar_failure(arm.success_TZ, tolerance.tail(arm.name)), float(arm.calls_TZ.sum())

    return {arm.name: arm.threshold for arm in sorted(arms, key=preference)[::-1] if arm.threshold is not None}
