"""r2v against every other router on the same live test episodes (docs/method.md, sections 9 and
11): by frontier area, and at equal cost.

Everything is paired by task and averaged over training seeds before a task counts as one
observation. Costs are teacher calls. A comparison at r2v's cost mixes the two operating points of
the other router on either side of it; nothing is extrapolated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from r2v_dist.evaluation.outcomes import ArmOutcomes
from r2v_dist.router.names import BY_NAME
from r2v_dist.stats.bootstrap import PairedDifference
from r2v_dist.stats.frontier import Ends, RouterCurve, apgr, cpt, frontier_auc, pgr
from r2v_dist.stats.hypothesis_tests import PValue, holm, sign_flip_test
from r2v_dist.stats.mixing import at_cost

Array = npt.NDArray[np.float64]
REFERENCE = "r2v"
SHARES = (0.5, 0.8, 0.95)
_CHUNK = 500
"""Resamples at once: bounds memory."""


@dataclass(frozen=True)
class SeedArms:
    """The evaluation of one training seed: all arms, and the threshold that validation chose for
    each router.
    """

    training_seed: int
    arms: tuple[ArmOutcomes, ...]
    selected: Mapping[str, float]
    slm_only_router: str

    def points(self, name: str) -> list[ArmOutcomes]:
        """The operating points of a router, ascending in threshold."""
        return [arm for arm in self.arms if arm.name == name]

    def chosen(self, name: str) -> ArmOutcomes | None:
        """A router at its selected threshold."""
        return next(
            (
                arm
                for arm in self.points(name)
                if arm.threshold is not None and arm.threshold == self.selected.get(name)
            ),
            None,
        )

    def curve(self, name: str) -> RouterCurve:
        """A router's cost and success by task."""
        arms = self.points(name)
        return RouterCurve(
            np.stack([arm.calls_TZ.mean(axis=1) for arm in arms]),
            np.stack([arm.success_TZ.mean(axis=1) for arm in arms]),
        )

    @property
    def ends(self) -> Ends:
        """The SLM as deployed and the teacher, alone."""
        return Ends(self.curve(self.slm_only_router), self.curve("teacher_only"))

    @property
    def swept(self) -> list[str]:
        """Routers with a threshold."""
        return sorted({arm.name for arm in self.arms if arm.threshold is not None})

    def matched(self, name: str, cost: float) -> Array | None:
        """Success [tasks, seeds] of a router that spends `cost` calls an episode, mixing its own
        points and both ends; None outside.
        """
        arms = [
            *self.points(self.slm_only_router),
            *self.points(name),
            *self.points("teacher_only"),
        ]
        values_PC = np.stack([arm.success_TZ.ravel() for arm in arms])
        try:
            return at_cost([float(arm.calls_TZ.mean()) for arm in arms], values_PC, cost).reshape(
                arms[0].success_TZ.shape
            )
        except ValueError:
            return None


@dataclass(frozen=True)
class Comparison:
    """r2v minus one other router.

    The matched part is None where r2v has no selected threshold or spends what the other cannot.
    Its p-values are upper bounds where they are said to be at their floor; `differing_tasks` is how
    many tasks tell the two apart at all.
    """

    other: str
    family: str
    auc: float
    auc_difference: PairedDifference
    matched_success: float | None
    matched_difference: PairedDifference | None
    differing_tasks: int | None
    p_value: float | None
    p_at_floor: bool | None
    p_holm: float | None = None
    p_holm_at_floor: bool | None = None

    @property
    def p(self) -> PValue | None:
        """The p-value of the difference at equal calls, before Holm."""
        return None if self.p_value is None else PValue(self.p_value, bool(self.p_at_floor))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Comparisons:
    """All of them, and how much of the gap between SLM and teacher r2v recovers (None where there
    is no gap).
    """

    auc: float
    cost: float | None
    success: float | None
    pgr: float | None
    apgr: float | None
    cpt: dict[str, float | None]
    training_seeds: int
    others: tuple[Comparison, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @property
    def best_at_cost(self) -> str | None:
        """The baseline of highest test success at r2v's cost: chosen with hindsight, in
        its favour.
        """
        candidates = [c for c in map(self.best, (False, True)) if c is not None]
        return max(candidates, key=lambda c: c.matched_success or 0.0).other if candidates else None

    def baselines(self, fitted: bool) -> list[Comparison]:
        """Those with the fitted baselines, or with the others."""
        baselines = [c for c in self.others if c.family == "baseline"]
        return [c for c in baselines if BY_NAME[c.other].fitted is fitted]

    def best(self, fitted: bool) -> Comparison | None:
        """As `best_at_cost`, among the fitted baselines or among the others."""
        candidates = [c for c in self.baselines(fitted) if c.matched_success is not None]
        return max(candidates, key=lambda c: c.matched_success or 0.0) if candidates else None

    def closest(self, fitted: bool) -> Comparison | None:
        """The baseline of either kind that r2v is least clearly ahead of by frontier area."""
        baselines = self.baselines(fitted)
        return min(baselines, key=lambda c: c.auc_difference.low) if baselines else None


def compare(seeds: Sequence[SeedArms], resamples: int, seed: int) -> Comparisons | None:
    """Compare r2v with all other swept routers. None without r2v or without teacher
    calls to save.
    """
    if not seeds or REFERENCE not in seeds[0].swept or seeds[0].ends.teacher.cost_PT.sum() == 0:
        return None
    names = [name for name in seeds[0].swept if all(name in s.swept for s in seeds)]
    tasks_BT = np.random.default_rng(seed).integers(
        0, seeds[0].ends.slm.cost_PT.shape[1], (resamples, seeds[0].ends.slm.cost_PT.shape[1])
    )
    area = {
        name: float(np.mean([frontier_auc(s.curve(name), s.ends) for s in seeds])) for name in names
    }
    area_B = {
        name: np.mean([resampled_areas(s.curve(name), s.ends, tasks_BT) for s in seeds], axis=0)
        for name in names
    }
    comparisons = [
        _against(seeds, name, area, area_B, tasks_BT, seed) for name in names if name != REFERENCE
    ]
    selected_arms = [s.chosen(REFERENCE) for s in seeds]
    arms = [arm for arm in selected_arms if arm is not None]
    return Comparisons(
        auc=area[REFERENCE],
        cost=float(np.mean([arm.calls_TZ.mean() for arm in arms])) if arms else None,
        success=float(np.mean([arm.success_TZ.mean() for arm in arms])) if arms else None,
        pgr=_mean([_recovered(s, arm) for s, arm in zip(seeds, selected_arms, strict=True)]),
        apgr=_mean([_average_recovered(s) for s in seeds]),
        cpt={f"{share:.0%}": _mean([_calls_for(s, share) for s in seeds]) for share in SHARES},
        training_seeds=len(seeds),
        others=tuple(_with_holm(comparisons)),
    )


def resampled_areas(curve: RouterCurve, ends: Ends, tasks_BT: npt.NDArray[np.int64]) -> Array:
    """`frontier_auc` on each row's tasks, all rows at once."""
    cost_PT = np.concatenate([ends.slm.cost_PT, curve.cost_PT, ends.teacher.cost_PT])
    success_PT = np.concatenate([ends.slm.success_PT, curve.success_PT, ends.teacher.success_PT])
    parts = [tasks_BT[i : i + _CHUNK] for i in range(0, len(tasks_BT), _CHUNK)]
    return np.concatenate(
        [
            _areas(cost_PT[:, part].mean(axis=2).T, success_PT[:, part].mean(axis=2).T)
            for part in parts
        ]
    )


def _areas(cost_BP: Array, success_BP: Array) -> Array:
    """Area under the non-decreasing concave hull from the first point's cost to the last's, as a
    mean height.

    The hull at a cost is the highest of all chords across it and of all points left of it. It bends
    at points only.
    """
    cost_BP = cost_BP / cost_BP[:, -1:]
    low_B1 = cost_BP[:, :1]
    grid_BG = np.clip(np.sort(cost_BP, axis=1), low_B1, 1.0)
    left_BP = cost_BP[:, None, :, None]
    right_BP = cost_BP[:, None, None, :]
    at_BG = grid_BG[:, :, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(right_BP > left_BP, (at_BG - left_BP) / (right_BP - left_BP), 0.0)
    chord = success_BP[:, None, :, None] + share * (
        success_BP[:, None, None, :] - success_BP[:, None, :, None]
    )
    height_BG = np.where(
        (left_BP <= at_BG) & (at_BG <= np.maximum(right_BP, left_BP)), chord, -np.inf
    ).max(axis=(2, 3))
    points = np.where(
        cost_BP[:, None, :] <= grid_BG[:, :, None], success_BP[:, None, :], -np.inf
    ).max(axis=2)
    return np.asarray(
        np.trapezoid(np.maximum(height_BG, points), grid_BG, axis=1) / (1.0 - low_B1[:, 0])
    )


def _against(
    seeds: Sequence[SeedArms],
    name: str,
    area: Mapping[str, float],
    area_B: Mapping[str, Array],
    tasks_BT: npt.NDArray[np.int64],
    seed: int,
) -> Comparison:
    by_area = _interval(area[REFERENCE] - area[name], area_B[REFERENCE] - area_B[name])
    family = BY_NAME[name].family
    matched = [_matched(s, name) for s in seeds]
    if any(pair is None for pair in matched):
        return Comparison(name, family, area[name], by_area, None, None, None, None, None)
    reference_T, other_T = np.mean([pair for pair in matched if pair is not None], axis=0)
    gap_T = reference_T - other_T
    by_cost = _interval(float(gap_T.mean()), gap_T[tasks_BT].mean(axis=1))
    test = sign_flip_test(gap_T, seed)
    matched_part = (float(other_T.mean()), by_cost, test.differing, test.p.value, test.p.at_floor)
    return Comparison(name, family, area[name], by_area, *matched_part)


def _matched(seed_arms: SeedArms, name: str) -> tuple[Array, Array] | None:
    """Success by task of r2v at its selected threshold, and of another router at the same cost."""
    arm = seed_arms.chosen(REFERENCE)
    if arm is None:
        return None
    other_TZ = seed_arms.matched(name, float(arm.calls_TZ.mean()))
    if other_TZ is None:
        return None
    return arm.success_TZ.mean(axis=1), other_TZ.mean(axis=1)


def _with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Baselines, fitted and unfitted, are one family of hypotheses, ablations another."""
    adjusted: dict[str, PValue] = {}
    for family in {c.family for c in comparisons}:
        p_by_router = {c.other: c.p for c in comparisons if c.family == family and c.p is not None}
        adjusted |= dict(zip(p_by_router, holm(list(p_by_router.values())), strict=True))
    return [
        replace(c, p_holm=adjusted[c.other].value, p_holm_at_floor=adjusted[c.other].at_floor)
        if c.other in adjusted
        else c
        for c in comparisons
    ]


def _interval(value: float, resampled_B: Array) -> PairedDifference:
    low, high = np.quantile(resampled_B, [0.025, 0.975])
    return PairedDifference(value, float(low), float(high))


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(values) else None


def _recovered(seed_arms: SeedArms, arm: ArmOutcomes | None) -> float | None:
    weak = float(seed_arms.ends.slm.success_PT.mean())
    strong = float(seed_arms.ends.teacher.success_PT.mean())
    return (
        pgr(float(arm.success_TZ.mean()), weak, strong)
        if arm is not None and strong > weak
        else None
    )


def _average_recovered(seed_arms: SeedArms) -> float | None:
    return apgr(seed_arms.curve(REFERENCE), seed_arms.ends) if _has_gap(seed_arms) else None


def _calls_for(seed_arms: SeedArms, share: float) -> float | None:
    return cpt(seed_arms.curve(REFERENCE), seed_arms.ends, share) if _has_gap(seed_arms) else None


def _has_gap(seed_arms: SeedArms) -> bool:
    return bool(seed_arms.ends.teacher.success_PT.mean() > seed_arms.ends.slm.success_PT.mean())
