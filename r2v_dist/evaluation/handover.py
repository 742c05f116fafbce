"""Latched routers on recorded SLM-only episodes (docs/method.md, section 7): the first escalation
hands over to the teacher for good.

In an SLM-only episode whose every step has a Tinf label, what a latched router would come to is
known for any threshold, because up to the hand-over it walks the same path. Axes: E episodes, T
steps, N labelled states, A thresholds, Z seeds.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from r2v_dist.labels.table import LabelTable
from r2v_dist.stats.cvar import cvar, cvar_noise_floor
from r2v_dist.stats.mixing import Mix

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LatchedEpisodes:
    """Complete episodes, padded; `rows_ET` are states of the label table. `dropped` episodes lacked
    a label or an early step.
    """

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
        """The SLM-only episodes of a label table, or of some of its states (whole episodes), in
        order of first appearance.
        """
        usable_N = (labels.source == "slm_only") & (labels.z >= 0)
        rows_N = np.flatnonzero(usable_N if among_N is None else usable_N & among_N)
        rows_N = rows_N[np.lexsort((labels.t[rows_N], labels.episode[rows_N]))]
        _, starts_E, lengths_E = np.unique(
            labels.episode[rows_N], return_index=True, return_counts=True
        )
        place_T = np.arange(lengths_E.max(initial=1))
        mask_ET = place_T < lengths_E[:, None]
        rows_ET = np.concatenate([rows_N, [0]])[np.where(mask_ET, starts_E[:, None] + place_T, -1)]
        whole_ET = (
            (labels.t[rows_ET] == place_T)
            & (labels.nT[rows_ET] > 0)
            & np.isfinite(labels.own_success[rows_ET])
        )
        whole_E = (whole_ET | ~mask_ET).all(axis=1)
        rows_ET = rows_ET[whole_E]
        mask_ET = mask_ET[whole_E]
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
    """A threshold and what it comes to on the episodes: cost in teacher calls, mean failure, CVaR
    over seeds.
    """

    threshold: float
    cost: float
    failure: float
    cvar: float


def threshold_outcomes(
    episodes: LatchedEpisodes, score_N: Array, tau: float, slm_price: float
) -> tuple[Array, Array]:
    """Failure and cost in teacher calls, both [E], of escalating at the first score >= tau.
    `score_N` is by state of the table.
    """
    reached_ET = episodes.mask_ET & (score_N[episodes.rows_ET] >= tau)
    never_E = ~reached_ET.any(axis=1)
    index_E = np.arange(len(episodes))
    at_E = np.where(never_E, episodes.mask_ET.sum(axis=1) - 1, reached_ET.argmax(axis=1))
    failure_E = np.where(never_E, episodes.lost_E, episodes.rhoT_ET[index_E, at_E])
    return failure_E, np.where(never_E, 0.0, episodes.m_ET[index_E, at_E]) + slm_price * (at_E + 1)


def sweep(
    episodes: LatchedEpisodes, score_N: Array, alpha: float, slm_price: float, most: int = 1000
) -> list[LatchedPoint]:
    """Every threshold that makes a difference, `most` of them at the most, from always to never
    escalating.

    Only a score above all earlier ones of its episode can be the one that hands over, so an
    episode's outcome is a step function of tau with few steps: they are summed, not the thresholds
    tried one by one.
    """
    score_ET = np.where(episodes.mask_ET, score_N[episodes.rows_ET], -np.inf)
    before_ET = np.concatenate(
        [np.full((len(episodes), 1), -np.inf), np.maximum.accumulate(score_ET, axis=1)[:, :-1]],
        axis=1,
    )
    e_R, t_R = np.nonzero(score_ET > before_ET)
    levels = np.unique(score_ET[e_R, t_R])
    if len(levels) > most:
        levels = np.unique(np.quantile(levels, np.linspace(0, 1, most), method="nearest"))
    _, seed_E = np.unique(episodes.z_E, return_inverse=True)
    seeds = int(seed_E.max()) + 1
    record = _Records(
        np.searchsorted(levels, score_ET[e_R, t_R], side="right"),
        e_R,
        seed_E,
        seeds,
        len(levels) + 1,
    )
    failures_AZ = record.sums(episodes.rhoT_ET[e_R, t_R], episodes.lost_E)
    costs_AZ = record.sums(
        episodes.m_ET[e_R, t_R] + slm_price * (t_R + 1), slm_price * episodes.mask_ET.sum(axis=1)
    )
    rates_AZ = failures_AZ / np.bincount(seed_E)
    points = zip(
        [*levels.tolist(), np.inf],
        costs_AZ.sum(axis=1),
        failures_AZ.sum(axis=1),
        rates_AZ,
        strict=True,
    )
    count = len(episodes)
    return [
        LatchedPoint(tau, float(cost) / count, float(failures) / count, cvar(rate_Z, alpha))
        for tau, cost, failures, rate_Z in points
    ]


def cheapest(points: list[LatchedPoint], epsilon: float) -> LatchedPoint | None:
    """The cheapest point with CVaR at most epsilon; None where there is none."""
    return min(
        (point for point in points if point.cvar <= epsilon),
        key=lambda point: point.cost,
        default=None,
    )


def cheapest_mix(points: list[LatchedPoint], epsilon: float) -> Mix | None:
    """The cheapest play of two thresholds, drawn once an episode, with CVaR at most epsilon; None
    where no single one has that.

    CVaR is convex, so a mixture's is at most the mean of the two, which is what is bounded here. A
    single threshold can miss epsilon by what one common state weighs, and cost accordingly more.
    """
    safe = cheapest(points, epsilon)
    if safe is None:
        return None
    within = [point for point in points if point.cvar <= epsilon]
    beyond = [point for point in points if point.cvar > epsilon and point.cost < safe.cost]
    if not beyond:
        return Mix(safe.threshold, safe.threshold, 1.0, safe.cost)
    cost_A, cvar_A = (
        np.array([getattr(p, name) for p in within])[:, None] for name in ("cost", "cvar")
    )
    cost_B, cvar_B = (
        np.array([getattr(p, name) for p in beyond])[None] for name in ("cost", "cvar")
    )
    share_AB = (cvar_B - epsilon) / (cvar_B - cvar_A)
    mixed_AB = share_AB * cost_A + (1 - share_AB) * cost_B
    a, b = np.unravel_index(mixed_AB.argmin(), mixed_AB.shape)
    return Mix(
        within[a].threshold, beyond[b].threshold, float(share_AB[a, b]), float(mixed_AB[a, b])
    )


def noise_floor(
    episodes: LatchedEpisodes, score_N: Array, tau: float, alpha: float, seed: int
) -> float:
    """The CVaR that equal seeds would show at this threshold by noise alone, on tasks that met
    every seed; nan without such a task.
    """
    failure_E, _ = threshold_outcomes(episodes, score_N, tau, 0.0)
    _, seed_E = np.unique(episodes.z_E, return_inverse=True)
    tasks, task_E = np.unique(episodes.task_E, return_inverse=True)
    losses_TZ = np.full((len(tasks), int(seed_E.max()) + 1), np.nan)
    losses_TZ[task_E, seed_E] = failure_E
    complete_TZ = losses_TZ[np.isfinite(losses_TZ).all(axis=1)]
    return cvar_noise_floor(complete_TZ, alpha, 100, seed) if len(complete_TZ) else float("nan")


@dataclass(frozen=True)
class _Records:
    """Records R of all episodes, in order; the record's level is one of the first `below_R`
    thresholds or above them.
    """

    below_R: Ints
    e_R: Ints
    seed_E: Ints
    seeds: int
    thresholds: int

    def sums(self, at_record_R: Array, never_E: Array) -> Array:
        """[A, Z] sums over episodes of a value that is `at_record_R` where the record hands over,
        `never_E` where none does.
        """
        last_R = np.append(self.e_R[1:] != self.e_R[:-1], True)
        instead_R = np.where(last_R, never_E[self.e_R], np.append(at_record_R[1:], 0.0))
        cells = self.seed_E[self.e_R] * (self.thresholds + 1) + self.below_R
        changes_ZA = np.bincount(
            cells, at_record_R - instead_R, self.seeds * (self.thresholds + 1)
        ).reshape(self.seeds, -1)
        from_above_ZA = np.cumsum(changes_ZA[:, ::-1], axis=1)[:, ::-1]
        never_Z = np.bincount(self.seed_E, never_E, self.seeds)
        return (never_Z[:, None] + from_above_ZA[:, 1:]).T.astype(np.float64)
