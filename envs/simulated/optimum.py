"""The best router of the simulated world, exactly: least cost with CVaR of failure over seeds at
most epsilon.

The symptom is constant within an episode and observed, so the problem separates into one trade-off
curve of cost against failure for every symptom. Each curve is the lower convex hull of the
deterministic routers that dynamic programming finds. The CVaR constraint joins the curves
(Rockafellar and Uryasev, 2000): for a fixed eta the problem is a linear program that a greedy rule
solves, and its value is convex in eta. Axes: B prices, V symptoms, Z seeds.
"""

import math
from dataclasses import dataclass

import numpy as np

from envs.simulated.exact import Exact
from envs.simulated.world import Array, symptom
from r2v_dist.stats.cvar import cvar


@dataclass(frozen=True)
class Optimum:
    """The best router: its cost (teacher calls) and its failure under each symptom."""

    cost: float
    failure_V: Array


_BISECTIONS = 14
_TERNARY_STEPS = 80


class Frontier:
    """All trade-offs of one world. With `latched=False` the SLM may act again after a teacher
    step.
    """

    def __init__(self, exact: Exact, latched: bool = True) -> None:
        self._exact = exact
        self._latched = latched
        self.curves = self._hulls()

    def best(self, zs: range, alpha: float, epsilon: float) -> Optimum:
        """The cheapest router, randomised routers included, with CVaR of failure over the seeds at
        most epsilon; alpha = 1 bounds the mean.

        Raises ValueError when even the safest router has a larger CVaR.
        """
        symptom_Z = [symptom(z) for z in zs]
        share_V = np.bincount(symptom_Z, minlength=len(self.curves)) / len(zs)
        safest = cvar(np.array([self.curves[v][-1, 0] for v in symptom_Z]), alpha)
        if safest > epsilon:
            raise ValueError(f"no router has CVaR {epsilon}: the safest has {safest:.4f}")
        low = 0.0
        high = epsilon

        def at(eta: float) -> Optimum:
            return self._allocate(share_V, eta, alpha * (epsilon - eta))

        for _ in range(_TERNARY_STEPS):  # the least cost is convex in eta
            third = (high - low) / 3
            if at(low + third).cost <= at(high - third).cost:
                high = high - third
            else:
                low = low + third
        return at((low + high) / 2)

    def mean_bound(self, zs: range, alpha: float, epsilon: float) -> float:
        """The bound on mean failure under which the cheapest router has CVaR epsilon.

        It is the bound to choose where only the mean can be bounded and the CVaR matters. It is at
        most epsilon, because a mean is at most its CVaR.
        """
        symptom_Z = [symptom(z) for z in zs]

        def tail(bound: float) -> float:
            return cvar(self.best(zs, 1.0, bound).failure_V[symptom_Z], alpha)

        safest = float(np.mean([self.curves[v][-1, 0] for v in symptom_Z]))
        low = safest + 1e-9
        high = epsilon
        if tail(high) <= epsilon:
            return high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if tail(middle) <= epsilon:
                low = middle
            else:
                high = middle
        return low

    def _hulls(self) -> list[Array]:
        """Vertices (failure, cost) of the lower hull under each symptom, from the cheapest router
        to the safest.
        """
        ends_B2V = self._vertices(np.array([0.0, 1e9]))
        curves = [ends_B2V[:, :, v] for v in range(ends_B2V.shape[2])]
        priced: set[float] = set()
        while True:
            slopes = np.concatenate([_slopes(curve) for curve in curves])
            prices = set(slopes.tolist()) - priced
            if not prices:
                return curves
            priced |= prices
            new_B2V = self._vertices(np.array(sorted(prices)))
            for v, curve in enumerate(curves):
                curves[v] = _hull(np.concatenate([curve, new_B2V[:, :, v]]))

    def _vertices(self, prices_B: Array) -> Array:
        """(failure, cost) [B, 2, V] of the best responses to prices of a failure."""
        responses = self._exact.best_responses(prices_B, self._latched)
        outcome = self._exact.evaluate(responses, self._latched)
        return np.stack([outcome.failure_BV, outcome.cost_BV], axis=1)

    def _allocate(self, share_V: Array, eta: float, allowance: float) -> Optimum:
        """Least cost with sum of share x max(failure - eta, 0) at most `allowance`: the cheapest
        segments are taken first, the last one in part.

        The cost is infinite where no router satisfies the bound.
        """
        failure_V = np.array([curve[0, 0] for curve in self.curves])
        cost = float(share_V @ np.array([curve[0, 1] for curve in self.curves]))
        excess = float(share_V @ np.maximum(failure_V - eta, 0.0))
        segments = []
        for v in np.flatnonzero(share_V > 0):
            failures = self.curves[v][:, 0]
            slopes = _slopes(self.curves[v])
            for slope, worse, better in zip(slopes, failures[:-1], failures[1:], strict=True):
                if worse > eta:
                    segments.append((slope, v, worse, max(better, eta)))
        for slope, v, worse, better in sorted(segments):
            if excess <= allowance:
                break
            gain = min(share_V[v] * (worse - better), excess - allowance)
            failure_V[v] = worse - gain / share_V[v]
            cost += slope * gain
            excess -= gain
        return Optimum(cost if excess <= allowance + 1e-12 else math.inf, failure_V)


def _slopes(curve: Array) -> Array:
    """Cost of avoiding one failure on each segment."""
    slopes: Array = np.diff(curve[:, 1]) / -np.diff(curve[:, 0])
    return slopes


def _hull(points: Array) -> Array:
    """The lower-left hull of (failure, cost), by decreasing failure, without points that lie within
    1e-9 of it.
    """
    by_failure = points[np.lexsort((points[:, 1], -points[:, 0]))]
    vertices: list[Array] = []
    for point in by_failure:
        while vertices and point[1] <= vertices[-1][1]:
            vertices.pop()
        if vertices and vertices[-1][0] - point[0] < 1e-12:
            continue
        while len(vertices) > 1 and _above(vertices[-2], vertices[-1], point):
            vertices.pop()
        vertices.append(point)
    return np.array(vertices)


def _above(left: Array, middle: Array, right: Array) -> bool:
    """Whether the middle point is not below the line through the others."""
    rise = right[1] - left[1]
    run = left[0] - right[0]
    on_line = left[1] + rise * (left[0] - middle[0]) / run
    return bool(middle[1] > on_line - 1e-9)
