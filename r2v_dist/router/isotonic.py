"""Isotonic calibration by pooling adjacent violators, with weights; numpy only."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Isotonic:
    """A non-decreasing map through the points (x, y), linear between them and constant outside."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, scores: Array) -> Array:
        """Calibrated values, shape as `scores`."""
        return np.asarray(np.interp(scores, self.x, self.y), np.float64)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(tuple(values["x"]), tuple(values["y"]))


def pool_adjacent_violators(targets: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted least-squares non-decreasing fit of a sequence: the pools' levels, and the pool of
    each entry.
    """
    levels: list[float] = []
    masses: list[float] = []
    sizes: list[int] = []
    for target, weight in zip(targets.tolist(), weights.tolist(), strict=True):
        level = target
        mass = weight
        size = 1
        while levels and levels[-1] >= level:
            below = masses.pop()
            above = mass
            mass = below + above
            level = (levels.pop() * below + level * above) / mass
            size += sizes.pop()
        levels.append(level)
        masses.append(mass)
        sizes.append(size)
    return np.asarray(levels, np.float64), np.repeat(np.arange(len(levels)), sizes)


def fit_isotonic(scores: Array, targets: Array, weights: Array) -> Isotonic:
    """Fit targets in [0, 1] by a non-decreasing map of the scores.

    Pools are joined at their weighted mean scores (centred isotonic regression), so that inside the
    range different scores keep different values and a ranking by the calibrated value is a ranking
    by the score. Raises ValueError without an entry of positive weight.
    """
    order = np.argsort(scores, kind="stable")
    order = order[weights[order] > 0]
    if not len(order):
        raise ValueError("isotonic calibration needs at least one weighted entry")
    distinct, first = np.unique(scores[order], return_index=True)
    mass = np.add.reduceat(weights[order], first)
    mean = np.add.reduceat(weights[order] * targets[order], first) / mass
    levels, pool = pool_adjacent_violators(mean, mass)
    centres = np.bincount(pool, mass * distinct) / np.bincount(pool, mass)
    return Isotonic(tuple(centres.tolist()), tuple(levels.tolist()))
