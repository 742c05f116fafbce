"""Monotone maps from a raw risk to a calibrated one (docs/method.md, section 7): plain numbers,
applied by numpy.

Labels of a risk are soft: `failures` out of `n` branches at a state, so that a state weighs as much
as it was sampled. The verifier's values have a map of their own, which keeps their ranking.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Kind = Literal["identity", "temperature", "platt", "isotonic"]

_EDGE = 1e-6
LOGIT_EDGE = math.log((1 - _EDGE) / _EDGE)
_PRIOR = 1e-2
"""Strength, in observations, of the pull towards the identity: separable data would send a slope to
infinity.
"""


@dataclass(frozen=True)
class Calibrator:
    """p -> sigmoid(slope * logit(p) + offset), and for `isotonic`, whose slope is 1, on through the
    piecewise linear (x, y).
    """

    kind: Kind = "identity"
    slope: float = 1.0
    offset: float = 0.0
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def __call__(self, p: Array) -> Array:
        """Calibrated probabilities, shape as `p`; those closer than 1e-6 to 0 or 1 count as that
        far away.
        """
        return self.pooled(sigmoid(self.slope * logit(p) + self.offset))

    def pooled(self, q: Array) -> Array:
        """What is left to do after the sigmoid."""
        return np.interp(q, self.x, self.y) if self.x else q

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            values["kind"],
            values["slope"],
            values["offset"],
            tuple(values["x"]),
            tuple(values["y"]),
        )


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


@dataclass(frozen=True)
class CalibratorChoice:
    """The calibrator fitted on everything, and the cross-validated Brier score of every kind it was
    chosen by.
    """

    calibrator: Calibrator
    brier: tuple[tuple[Kind, float], ...]


def sigmoid(x: Array) -> Array:
    """Logistic function that does not overflow."""
    y: Array = 0.5 * (1.0 + np.tanh(0.5 * x))
    return y


def logit(p: Array) -> Array:
    """Inverse of `sigmoid`, with probabilities kept off 0 and 1."""
    inside = np.minimum(np.maximum(p, _EDGE), 1.0 - _EDGE)
    odds: Array = np.log(inside / (1.0 - inside))
    return odds


def fit_temperature(p: Array, failures: Array, n: Array) -> Calibrator:
    """Maximum likelihood of a slope alone (1 / temperature), never negative."""
    [slope] = logistic_fit(logit(p)[:, None], failures, n, np.array([1.0]))
    return Calibrator("temperature", slope=max(0.0, float(slope)))


def fit_platt(p: Array, failures: Array, n: Array) -> Calibrator:
    """Maximum likelihood of slope and offset; a negative slope would turn the order round and
    becomes 0.
    """
    x_N2 = np.stack([logit(p), np.ones(len(p))], axis=1)
    slope, offset = logistic_fit(x_N2, failures, n, np.array([1.0, 0.0]))
    if slope < 0:
        slope, [offset] = 0.0, logistic_fit(np.ones((len(p), 1)), failures, n, np.array([0.0]))
    return Calibrator("platt", slope=float(slope), offset=float(offset))


def fit_isotonic(p: Array, failures: Array, n: Array) -> Calibrator:
    """Weighted least squares among non-decreasing maps, by pooling adjacent violators; linear
    between the pools.
    """
    order = np.argsort(p, kind="stable")
    levels, first = np.unique(p[order], return_index=True)
    weights = np.add.reduceat(n[order], first)
    sums = np.add.reduceat(failures[order], first)
    levels, weights, sums = (values[weights > 0] for values in (levels, weights, sums))
    shares, pool = pool_adjacent_violators(sums / weights, weights)
    # A pool is flat from its first level to its last.
    ends = np.unique(
        np.concatenate(
            [
                np.unique(pool, return_index=True)[1],
                len(pool) - 1 - np.unique(pool[::-1], return_index=True)[1],
            ]
        )
    )
    return Calibrator(
        "isotonic", x=tuple(levels[ends].tolist()), y=tuple(shares[pool[ends]].tolist())
    )


def fit_centred_isotonic(scores: Array, targets: Array, weights: Array) -> Isotonic:
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


_FITS: dict[Kind, Callable[[Array, Array, Array], Calibrator]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def choose_calibrator(
    p: Array, failures: Array, n: Array, task: npt.NDArray[Any], seed: int, folds: int = 5
) -> CalibratorChoice:
    """The kind with the least Brier score on held-out tasks, then fitted on all of them.

    Raises ValueError with fewer than two tasks: nothing could be held out.
    """
    tasks, task_N = np.unique(task, return_inverse=True)
    if len(tasks) < 2:
        raise ValueError("a calibrator is chosen on held-out tasks: at least two tasks are needed")
    fold_N = (np.random.default_rng(seed).permutation(len(tasks)) % min(folds, len(tasks)))[task_N]
    labelled_N = n > 0
    share_N = np.divide(failures, n, out=np.zeros(len(n)), where=labelled_N)
    scores: list[tuple[Kind, float]] = []
    for kind, fit in _FITS.items():
        held_out_N = np.empty(len(p))
        for fold in range(fold_N.max() + 1):
            inside_N = (fold_N != fold) & labelled_N
            held_out_N[fold_N == fold] = fit(p[inside_N], failures[inside_N], n[inside_N])(
                p[fold_N == fold]
            )
        scores.append((kind, float((n * (held_out_N - share_N) ** 2).sum() / n.sum())))
    best_kind = min(scores, key=lambda score: score[1])[0]
    return CalibratorChoice(
        _FITS[best_kind](p[labelled_N], failures[labelled_N], n[labelled_N]), tuple(scores)
    )


def logistic_fit(
    x_ND: Array, failures: Array, n: Array, prior_D: Array, strength: float = _PRIOR
) -> Array:
    """Weights [D] of least binomial log-loss plus strength / 2 |w - prior|^2, by Newton's method
    with step halving.
    """

    def loss(w_D: Array) -> float:
        a_N = x_ND @ w_D
        return float(
            (n * np.logaddexp(0.0, a_N) - failures * a_N).sum()
            + 0.5 * strength * ((w_D - prior_D) ** 2).sum()
        )

    w_D = prior_D.copy()
    for _ in range(100):
        q_N = sigmoid(x_ND @ w_D)
        gradient_D = x_ND.T @ (n * q_N - failures) + strength * (w_D - prior_D)
        hessian_DD = (x_ND * (n * q_N * (1 - q_N))[:, None]).T @ x_ND + strength * np.eye(len(w_D))
        step_D = np.linalg.solve(hessian_DD, gradient_D)
        scale = 1.0
        loss_before = loss(w_D)
        while loss(w_D - scale * step_D) > loss_before and scale > 1e-6:
            scale /= 2
        w_D = w_D - scale * step_D
        if np.abs(gradient_D).max() < 1e-9 * max(1.0, float(n.sum())):
            break
    return w_D
