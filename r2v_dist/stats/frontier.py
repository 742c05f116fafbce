"""Cost against success (docs/method.md, section 9): the frontier of a router, its area, and paired
comparisons of two.

The hull is the least concave non-decreasing function above a router's operating points: mixing two
thresholds reaches every point of a chord, and a budget need not be spent. Costs are shares of what
teacher-only costs unless said otherwise. Axes: P operating points, T tasks; the unit of resampling
is the task.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hull:
    """Vertices with ascending cost and ascending success."""

    cost_V: Array
    success_V: Array

    def at(self, cost: float) -> float:
        """Success for a budget of `cost`; -inf below the cheapest point."""
        if cost < self.cost_V[0]:
            return -np.inf
        return float(np.interp(cost, self.cost_V, self.success_V))

    def cost_of(self, success: float) -> float | None:
        """The least cost that reaches `success`; None where nothing does."""
        if success > self.success_V[-1]:
            return None
        return float(np.interp(success, self.success_V, self.cost_V))

    def area(self, low: float, high: float) -> float:
        """Integral of success from `low` to `high`; below the cheapest point success is 0."""
        cheapest = self.cost_V[0]
        between = (self.cost_V > low) & (self.cost_V < high)
        corners = np.array([max(low, float(cheapest)), *self.cost_V[between], high])
        in_range = (corners >= cheapest) & (corners <= high)
        grid = np.unique(corners[in_range])
        success = np.interp(grid, self.cost_V, self.success_V)
        return float(np.trapezoid(success, grid))


@dataclass(frozen=True)
class RouterCurve:
    """A router at P operating points on T tasks: mean over seeds of cost (teacher calls) and
    success, each [P, T].
    """

    cost_PT: Array
    success_PT: Array

    def on(self, tasks: npt.NDArray[np.int64]) -> "RouterCurve":
        """The same router on these tasks, repeats allowed."""
        return RouterCurve(self.cost_PT[:, tasks], self.success_PT[:, tasks])


@dataclass(frozen=True)
class Ends:
    """SLM-only and teacher-only on the same T tasks: two operating points that every router can
    reach.
    """

    slm: RouterCurve
    teacher: RouterCurve

    def on(self, tasks: npt.NDArray[np.int64]) -> "Ends":
        """The same ends on these tasks."""
        return Ends(self.slm.on(tasks), self.teacher.on(tasks))


def hull(cost_P: Sequence[float] | Array, success_P: Sequence[float] | Array) -> Hull:
    """The non-decreasing concave hull of operating points (RouterBench, Hu et al., 2024),
    by the monotone chain of Andrew ("Another efficient algorithm for convex hulls", 1979).
    """
    costs = np.asarray(cost_P)
    successes = np.asarray(success_P)
    order = np.lexsort((-successes, costs))
    points = zip(costs[order].tolist(), successes[order].tolist(), strict=True)
    vertices: list[tuple[float, float]] = []
    for cost, success in points:
        if vertices and success <= vertices[-1][1]:
            continue
        while len(vertices) > 1 and _turns_left(vertices[-2], vertices[-1], (cost, success)):
            vertices.pop()
        vertices.append((cost, success))
    cost_V, success_V = np.array(vertices, dtype=np.float64).T
    return Hull(cost_V, success_V)


def frontier_hull(curve: RouterCurve, ends: Ends) -> Hull:
    """The hull of a router together with both ends, costs as shares of teacher-only's."""
    parts = (ends.slm, curve, ends.teacher)
    unit = ends.teacher.cost_PT.mean()
    costs = np.concatenate([part.cost_PT.mean(axis=1) for part in parts])
    successes = np.concatenate([part.success_PT.mean(axis=1) for part in parts])
    return hull(costs / unit, successes)


def frontier_auc(curve: RouterCurve, ends: Ends) -> float:
    """Mean success over all budgets from SLM-only's cost to teacher-only's."""
    teacher_cost = ends.teacher.cost_PT.mean()
    low = float(ends.slm.cost_PT.mean() / teacher_cost)
    area = frontier_hull(curve, ends).area(low, 1.0)
    return area / (1.0 - low)


def pgr(success: float, weak: float, strong: float) -> float:
    """Performance gap recovered, (r - r_w) / (r_s - r_w) (RouteLLM, Ong et al., 2024).

    Raises ValueError where there is no gap.
    """
    return (success - weak) / _gap(weak, strong)


def apgr(curve: RouterCurve, ends: Ends) -> float:
    """Average PGR over all budgets from SLM-only's cost to teacher-only's (RouteLLM, Ong et al.,
    2024).

    Raises ValueError where there is no gap.
    """
    weak = float(ends.slm.success_PT.mean())
    strong = float(ends.teacher.success_PT.mean())
    return pgr(frontier_auc(curve, ends), weak, strong)


def cpt(curve: RouterCurve, ends: Ends, share: float) -> float | None:
    """Call-performance threshold (RouteLLM, Ong et al., 2024): the least share of
    teacher-only's calls that recovers `share` of the gap; None where no budget does.

    Raises ValueError where there is no gap.
    """
    weak = float(ends.slm.success_PT.mean())
    strong = float(ends.teacher.success_PT.mean())
    target = weak + share * _gap(weak, strong)
    return frontier_hull(curve, ends).cost_of(target)


def _gap(weak: float, strong: float) -> float:
    if strong <= weak:
        raise ValueError(
            f"teacher-only ({strong:.3f}) does not exceed SLM-only ({weak:.3f}): no gap to recover"
        )
    return strong - weak


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the chord from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])
