"""Statistics over outcomes (docs/method.md, section 9). The unit of resampling is the task: its
episodes are correlated.

`outcomes_TZ` is a (tasks x seeds) array of success in {0, 1}; numpy only.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def task_bootstrap_interval(
    values_TZ: Array, resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over tasks and seeds (Efron and Tibshirani, "An Introduction
    to the Bootstrap", 1993, chapter 13), where whole tasks are resampled.
    """
    per_task_T = values_TZ.mean(axis=1)
    rng = np.random.default_rng(seed)
    draws_BT = rng.integers(0, len(per_task_T), (resamples, len(per_task_T)))
    means_B = per_task_T[draws_BT].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means_B, [tail, 1 - tail])
    return float(low), float(high)


def worst_seed_success(outcomes_TZ: Array) -> float:
    """Success rate under the seed where it is lowest."""
    return float(outcomes_TZ.mean(axis=0).min())


@dataclass(frozen=True)
class PairedDifference:
    """Difference of frontier areas, first minus second, with a percentile interval over resampled
    tasks.
    """

    difference: float
    low: float
    high: float
