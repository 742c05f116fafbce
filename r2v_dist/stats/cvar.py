"""Tail risk over perturbation seeds (docs/method.md, section 7): one exact CVaR, its
Rockafellar-Uryasev form, and its gradient.

F_Z is the failure rate under each seed on the same tasks, alpha the tail mass. An interpolated
quantile minimises nothing; everything here uses the order statistic F_[k+1], k = floor(alpha |Z|),
which does.
"""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def cvar(F_Z: Array, alpha: float) -> float:
    """Mean of the worst alpha of the losses; the boundary one counts in part.

    Lies between eta and the largest loss, whatever rounding makes of the sum: a loss in [0, 1] has
    a CVaR in [0, 1].
    """
    F_Z = np.asarray(F_Z, dtype=np.float64)
    mean = float(F_Z @ cvar_weights(F_Z, alpha))
    return min(max(mean, tail_threshold(F_Z, alpha)), float(F_Z.max()))


def cvars(F_XZ: Array, alpha: float) -> Array:
    """The CVaR of every row of losses, over the last axis."""
    ordered_XZ = -np.sort(-F_XZ, axis=-1)
    places_Z = np.arange(F_XZ.shape[-1], 0, -1, dtype=np.float64)
    means_X = ordered_XZ @ cvar_weights(places_Z, alpha)
    eta = len(places_Z) - int(tail_threshold(places_Z, alpha))
    clipped_X: Array = np.clip(means_X, ordered_XZ[..., eta], ordered_XZ[..., 0])
    return clipped_X


def cvar_weights(F_Z: Array, alpha: float) -> Array:
    """dCVaR / dF_z, summing to 1. Losses equal to eta share what is left of the tail, so that equal
    seeds weigh alike.

    Raises ValueError unless 0 < alpha <= 1.
    """
    F_Z = np.asarray(F_Z, dtype=np.float64)
    eta = tail_threshold(F_Z, alpha)
    mass = alpha * len(F_Z)
    above_Z = np.where(eta < F_Z, 1.0, 0.0)
    at_Z = np.where(eta == F_Z, 1.0, 0.0)
    rest = max(
        mass - above_Z.sum(), 0.0
    )  # rounding may leave a whole tail a little less than whole
    weights_Z: Array = (above_Z + at_Z * rest / at_Z.sum()) / mass
    return weights_Z


def tail_threshold(F_Z: Array, alpha: float) -> float:
    """eta = F_[k+1], a minimiser of the Rockafellar-Uryasev objective."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha = {alpha}: the tail mass lies in (0, 1]")
    k = min(math.floor(alpha * len(F_Z) + 1e-12), len(F_Z) - 1)
    return float(np.sort(F_Z)[::-1][k])


def rockafellar_uryasev(F_Z: Array, alpha: float, eta: float) -> float:
    """eta + mean excess over eta / alpha; its minimum over eta is the CVaR."""
    return float(eta + np.maximum(F_Z - eta, 0.0).sum() / (alpha * len(F_Z)))


def cvar_failure(outcomes_TZ: Array, alpha: float) -> float:
    """CVaR over seeds of the failure rate, from successes (tasks x seeds)."""
    return cvar(1.0 - outcomes_TZ.mean(axis=0), alpha)


def cvar_noise_floor(losses_TZ: Array, alpha: float, repetitions: int, seed: int) -> float:
    """What the CVaR would be if seeds did not differ: its mean with the seeds permuted within every
    task.

    A CVaR of noisy rates is biased upwards; only what exceeds this floor speaks of seeds.
    """
    rng = np.random.default_rng(seed)
    return float(
        np.mean(
            [cvar(rng.permuted(losses_TZ, axis=1).mean(axis=0), alpha) for _ in range(repetitions)]
        )
    )
