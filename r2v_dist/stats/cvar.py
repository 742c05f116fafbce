"""Tail risk over perturbation seeds (docs/method.md, section 7): one exact CVaR, its
Rockafellar-Uryasev form, and its gradient.

F_Z is the failure rate under each seed on the same tasks, alpha the tail mass. Everything here uses
the order statistic F_[k+1], k = floor(alpha |Z|), which minimises the Rockafellar-Uryasev
objective; an interpolated quantile does not. Axes: Z perturbation seeds, T tasks, X anything.

Sources: Rockafellar and Uryasev, "Optimization of conditional value-at-risk", 2000 (RU2000), and
"Conditional value-at-risk for general loss distributions", 2002 (RU2002).
"""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def cvar(F_Z: Array, alpha: float) -> float:
    """Mean of the worst share alpha of the losses, where the loss on the boundary counts in part
    (RU2002, proposition 8).

    The result lies between eta and the largest loss even where rounding moves the sum, so that
    losses in [0, 1] have a CVaR in [0, 1].
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
    """The gradient dCVaR / dF_z of the weighted mean in RU2002, proposition 8; it sums to 1. Losses
    equal to eta share what the losses above eta leave of the tail, so that equal seeds have equal
    weights.

    Raises ValueError unless 0 < alpha <= 1.
    """
    F_Z = np.asarray(F_Z, dtype=np.float64)
    eta = tail_threshold(F_Z, alpha)
    mass = alpha * len(F_Z)
    above_Z = np.where(eta < F_Z, 1.0, 0.0)
    at_Z = np.where(eta == F_Z, 1.0, 0.0)
    # Rounding may make the tail mass a little smaller than the losses above eta.
    rest = max(mass - above_Z.sum(), 0.0)
    weights_Z: Array = (above_Z + at_Z * rest / at_Z.sum()) / mass
    return weights_Z


def tail_threshold(F_Z: Array, alpha: float) -> float:
    """eta = F_[k+1], at which eta + mean(max(F_Z - eta, 0)) / alpha is least, and the CVaR (RU2000,
    theorem 1; RU2002, proposition 8).

    Raises ValueError unless 0 < alpha <= 1.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha = {alpha}: the tail mass lies in (0, 1]")
    k = min(math.floor(alpha * len(F_Z) + 1e-12), len(F_Z) - 1)
    descending_Z = np.sort(F_Z)[::-1]
    return float(descending_Z[k])


def cvar_failure(outcomes_TZ: Array, alpha: float) -> float:
    """CVaR over seeds of the failure rate, from successes (tasks x seeds)."""
    return cvar(1.0 - outcomes_TZ.mean(axis=0), alpha)


def cvar_noise_floor(losses_TZ: Array, alpha: float, repetitions: int, seed: int) -> float:
    """Mean CVaR with the seeds permuted within every task, which is the CVaR that seeds without an
    effect would show.

    The CVaR of noisy failure rates is biased upwards; only the excess over this floor is evidence
    that seeds differ.
    """
    rng = np.random.default_rng(seed)
    tails = []
    for _ in range(repetitions):
        rates_Z = rng.permuted(losses_TZ, axis=1).mean(axis=0)
        tails.append(cvar(rates_Z, alpha))
    return float(np.mean(tails))
