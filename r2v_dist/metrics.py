"""Statistics over outcomes (METHOD section 9). The unit of resampling is the task: its episodes are correlated.

`outcomes_TZ` is a (tasks x seeds) array of success in {0, 1}; numpy only.
"""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def task_bootstrap_interval(values_TZ: Array, resamples: int, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean, resampling whole tasks."""
    per_task_T = values_TZ.mean(axis=1)
    rng = np.random.default_rng(seed)
    draws_BT = rng.integers(0, len(per_task_T), (resamples, len(per_task_T)))
    means_B = per_task_T[draws_BT].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means_B, [tail, 1 - tail])
    return float(low), float(high)


def cvar(losses: Array, alpha: float) -> float:
    """Mean of the worst alpha of the losses (Rockafellar-Uryasev minimum, METHOD section 7); the boundary one counts in part."""
    ordered = np.sort(np.asarray(losses, dtype=np.float64))[::-1]
    mass = alpha * len(ordered)
    whole = math.floor(mass + 1e-12)
    partial = (mass - whole) * ordered[whole] if whole < len(ordered) else 0.0
    return float((ordered[:whole].sum() + partial) / mass)


def worst_seed_success(outcomes_TZ: Array) -> float:
    """Success rate under the seed where it is lowest."""
    return float(outcomes_TZ.mean(axis=0).min())


def cvar_failure(outcomes_TZ: Array, alpha: float) -> float:
    """CVaR over seeds of the failure rate."""
    return cvar(1.0 - outcomes_TZ.mean(axis=0), alpha)
