"""The best router of the simulated world: least cost with CVaR of failure over seeds at most
epsilon, exactly.

Symptoms do not change within an episode and are seen, so the problem falls apart into one trade-off
curve (cost against failure) a symptom, each the lower convex hull of deterministic routers found by
dynamic programming, joined by the CVaR constraint in Rockafellar and Uryasev's form: for a fixed
eta a linear program that a greedy rule solves, and convex in eta.
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


class Frontier:
    """All trade-offs of one world. `latched=False` may hand back to the SLM after a
    teacher's step.
    """

    def __init__(self, exact: Exact, latched: bool = True) -> None:
        self._exact = exact
        self._latched = latched
        self.curves = self._hulls()

    def best(self, zs: range, alpha: float, epsilon: float) -> Optimum:
        """The cheapest router, randomised ones included, with CVaR of failure over the seeds at
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
        for _ in range(80):  # ternary search: the least cost is convex in eta
            third = (high - low) / 3
            at_third, at_two_thirds = (
                self._allocate(share_V, eta, alpha * (epsilon - eta)).cost
                for eta in (low + third, high - third)
            )
            low, high = (low, high - third) if at_third <= at_two_thirds else (low + third, high)
        return self._allocate(share_V, (low + high) / 2, alpha * (epsilon - (low + high) / 2))

    def mean_bound(self, zs: range, alpha: float, epsilon: float) -> float:
        """The bound on mean failure under which the cheapest router has CVaR epsilon.

        It is what somebody would bound who cares for the tail and cannot bound it. At most epsilon,
        as a mean is at most its CVaR.
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
            low, high = (middle, high) if tail(middle) <= epsilon else (low, middle)
        return low

    def _hulls(self) -> list[Array]:
        """Vertices (failure, cost) of the lower hull under each symptom, from the cheapest router
        to the safest.
        """
        ends_B2V = self._vertices(np.array([0.0, 1e9]))
        curves = [ends_B2V[:, :, v] for v in range(ends_B2V.shape[2])]
        asked: set[float] = set()
        while True:
            prices = {float(p) for curve in curves for p in _slopes(curve)} - asked
            if not prices:
                return curves
            asked |= prices
            found_B2V = self._vertices(np.array(sorted(prices)))
            curves = [
                _hull(np.concatenate([curve, found_B2V[:, :, v]])) for v, curve in enumerate(curves)
            ]

    def _vertices(self, prices_B: Array) -> Array:
        """(failure, cost) [B, 2, V] of the best responses to prices of a failure."""
        outcome = self._exact.evaluate(
            self._exact.best_responses(prices_B, self._latched), self._latched
        )
        return np.stack([outcome.failure_BV, outcome.cost_BV], axis=1)

    def _allocate(self, share_V: Array, eta: float, allowed: float) -> Optimum:
        """Least cost with sum of share x [failure - eta]+ at most `allowed`: the flattest segments
        first, the last one in part.

        Infinite cost where it cannot be done.
        """
        failure_V = np.array([curve[0, 0] for curve in self.curves])
        cost = float(share_V @ np.array([curve[0, 1] for curve in self.curves]))
        excess = float(share_V @ np.maximum(failure_V - eta, 0.0))
        segments = [
            (slope, v, worse, max(better, eta))
            for v, curve in enumerate(self.curves)
            for slope, worse, better in zip(
                _slopes(curve), curve[:-1, 0], curve[1:, 0], strict=True
            )
            if share_V[v] > 0 and worse > eta
        ]
        for slope, v, worse, better in sorted(segments):
            if excess <= allowed:
                break
            gain = min(share_V[v] * (worse - better), excess - allowed)
            failure_V[v] = worse - gain / share_V[v]
            cost += slope * gain
            excess -= gain
        return Optimum(cost if excess <= allowed + 1e-12 else math.inf, failure_V)


def _slopes(curve: Array) -> Array:
    """Cost of avoiding one failure on each segment."""
    slopes: Array = np.diff(curve[:, 1]) / -np.diff(curve[:, 0])
    return slopes


def _hull(points: Array) -> Array:
    """The lower-left hull of (failure, cost), by decreasing failure; points within 1e-9 of it are
    left out.
    """
    kept: list[Array] = []
    for point in points[np.lexsort((points[:, 1], -points[:, 0]))]:
        while kept and point[1] <= kept[-1][1]:
            kept.pop()
        if kept and kept[-1][0] - point[0] < 1e-12:
            continue
        while len(kept) > 1 and _above(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return np.array(kept)


def _above(left: Array, middle: Array, right: Array) -> bool:
    """Whether the middle point is not below the line through the others."""
    on_line = left[1] + (right[1] - left[1]) * (left[0] - middle[0]) / (left[0] - right[0])
    return bool(middle[1] > on_line - 1e-9)
