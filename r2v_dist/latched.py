"""Latched routers on recorded SLM-only episodes (METHOD section 7): the first escalation hands over to the teacher for good.

In an SLM-only episode whose every step has a Tinf label, what a latched router would come to is known for any threshold,
because up to the hand-over it walks the same path. Axes: E episodes, T steps, N labelled states, A thresholds, Z seeds.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from r2v_dist.labels import LabelTable
from r2v_dist.risk_measures import cvar, cvar_weights

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_FOLDS = 5


@dataclass(frozen=True)
class LatchedEpisodes:
    """Complete episodes, padded; `rows_ET` are states of the label table. `dropped` episodes lacked a label or an early step."""

    rows_ET: Ints
    mask_ET: Bools
    rhoT_ET: Array
    m_ET: Array
    lost_E: Array
    z_E: Ints
    task_E: npt.NDArray[np.str_]
    dropped: int

    @classmethod
    def of(cls, labels: LabelTable, among_N: Bools | None = None) -> Self:
        """The SLM-only episodes of a label table, or of some of its states (whole episodes), in order of first appearance."""
        usable_N = (labels.source == "slm_only") & (labels.z >= 0)
        rows_N = np.flatnonzero(usable_N if among_N is None else usable_N & among_N)
        rows_N = rows_N[np.lexsort((labels.t[rows_N], labels.episode[rows_N]))]
        _, starts_E, lengths_E = np.unique(labels.episode[rows_N], return_index=True, return_counts=True)
        place_T = np.arange(lengths_E.max(initial=1))
        mask_ET = place_T < lengths_E[:, None]
        rows_ET = np.concatenate([rows_N, [0]])[np.where(mask_ET, starts_E[:, None] + place_T, -1)]
        whole_ET = (labels.t[rows_ET] == place_T) & (labels.nT[rows_ET] > 0) & np.isfinite(labels.own_success[rows_ET])
        whole_E = (whole_ET | ~mask_ET).all(axis=1)
        rows_ET, mask_ET = rows_ET[whole_E], mask_ET[whole_E]
        first_E = rows_ET[:, 0]
        return cls(
            rows_ET,
            mask_ET,
            np.where(mask_ET, labels.rhoT[rows_ET], 0.0),
            np.where(mask_ET, labels.m[rows_ET], 0.0),
            1.0 - labels.own_success[first_E],
            labels.z[first_E],
            labels.task[first_E],
            int((~whole_E).sum()),
        )

    def __len__(self) -> int:
        return len(self.lost_E)


@dataclass(frozen=True)
class LatchedPoint:
    """A threshold and what it comes to on the episodes: cost in teacher calls, mean failure, CVaR over seeds."""

    threshold: float
    cost: float
    failure: float
    cvar: float
    cvar_cross_fitted: float


def threshold_outcomes(episodes: LatchedEpisodes, score_N: Array, taus_A: Array, slm_price: float) -> tuple[Array, Array]:
    """Failure and cost in teacher calls, both [A, E], of escalating at the first score >= tau. `score_N` is by state of the table."""
    highest_ET = np.maximum.accumulate(np.where(episodes.mask_ET, score_N[episodes.rows_ET], -np.inf), axis=1)
    lengths_E, index_E = episodes.mask_ET.sum(axis=1), np.arange(len(episodes))
    failure_AE, cost_AE = np.empty((len(taus_A), len(episodes))), np.empty((len(taus_A), len(episodes)))
    for a, tau in enumerate(taus_A):
        steps_E = (highest_ET < tau).sum(axis=1)
        never_E = steps_E >= lengths_E
        at_E = np.minimum(steps_E, lengths_E - 1)
        failure_AE[a] = np.where(never_E, episodes.lost_E, episodes.rhoT_ET[index_E, at_E])
        cost_AE[a] = np.where(never_E, 0.0, episodes.m_ET[index_E, at_E]) + slm_price * (at_E + 1)
    return failure_AE, cost_AE


def sweep(episodes: LatchedEpisodes, score_N: Array, alpha: float, slm_price: float, most: int = 200) -> list[LatchedPoint]:
    """Every threshold that makes a difference, `most` of them at the most, from always to never escalating."""
    levels = np.unique(score_N[episodes.rows_ET[episodes.mask_ET]])
    if len(levels) > most:
        levels = np.unique(np.quantile(levels, np.linspace(0, 1, most), method="nearest"))
    taus_A = np.append(levels, np.inf)
    failure_AE, cost_AE = threshold_outcomes(episodes, score_N, taus_A, slm_price)
    rates_FAZ, rates_AZ = _seed_rates(failure_AE, episodes)
    return [
        LatchedPoint(
            float(taus_A[a]),
            float(cost_AE[a].mean()),
            float(failure_AE[a].mean()),
            cvar(rates_AZ[a], alpha),
            _cross_fitted(rates_FAZ[:, a], alpha),
        )
        for a in range(len(taus_A))
    ]


def cheapest(points: list[LatchedPoint], epsilon: float, cross_fitted: bool = False) -> LatchedPoint | None:
    """The cheapest point with CVaR at most epsilon; None where there is none."""
    feasible = [point for point in points if (point.cvar_cross_fitted if cross_fitted else point.cvar) <= epsilon]
    return min(feasible, key=lambda point: point.cost, default=None)


def _seed_rates(failure_AE: Array, episodes: LatchedEpisodes) -> tuple[Array, Array]:
    """Failure rate by seed on each fold of tasks [fold, A, Z] and on all tasks [A, Z]."""
    _, seed_E = np.unique(episodes.z_E, return_inverse=True)
    _, task_E = np.unique(episodes.task_E, return_inverse=True)
    seeds = int(seed_E.max()) + 1
    groups = seed_E + seeds * (task_E % _FOLDS)
    sums_AG = np.stack([np.bincount(groups, failure_E, minlength=seeds * _FOLDS) for failure_E in failure_AE])
    counts_FZ = np.bincount(groups, minlength=seeds * _FOLDS).reshape(_FOLDS, seeds)
    sums_FAZ = sums_AG.reshape(len(failure_AE), _FOLDS, seeds).transpose(1, 0, 2)
    rates_FAZ = sums_FAZ / np.maximum(counts_FZ, 1)[:, None]
    return rates_FAZ, sums_FAZ.sum(axis=0) / counts_FZ.sum(axis=0)


def _cross_fitted(rates_FZ: Array, alpha: float) -> float:
    """CVaR with the tail's seeds chosen on the other folds of tasks, so that noise in F_z does not choose its own maximum.

    The plain CVaR of noisy rates is too large; this one is a little too small, and both tend to the truth.
    """
    others_FZ = (rates_FZ.sum(axis=0) - rates_FZ) / (len(rates_FZ) - 1)
    return float(np.mean([rates_Z @ cvar_weights(others_Z, alpha) for rates_Z, others_Z in zip(rates_FZ, others_FZ, strict=True)]))
