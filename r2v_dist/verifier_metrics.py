"""How good a verifier is (METHOD section 9): soft labels v in [0, 1] from branches, numpy only.

Axes: N candidates. `weights` are numbers of branches; a soft label counts as that share of successes and failures.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class VerifierMetrics:
    """`pairwise` is over pairs of one state whose branch values differ; measures without data are nan."""

    auroc: float
    brier: float
    ece: float
    pairwise: float
    candidates: int
    pairs: int


def verifier_metrics(scores: Array, values: Array, weights: Array, group: npt.NDArray[np.int64], bins: int = 15) -> VerifierMetrics:
    """All measures at once."""
    accuracy, pairs = pairwise_accuracy(scores, values, group)
    return VerifierMetrics(
        auroc(scores, values, weights), brier(scores, values, weights), ece(scores, values, weights, bins), accuracy, len(scores), pairs
    )


def auroc(scores: Array, values: Array, weights: Array) -> float:
    """P(a random successful branch's candidate scores above a random failed one's), ties half; nan with only one kind."""
    _, level = np.unique(scores, return_inverse=True)
    won = np.bincount(level, weights * values)
    lost = np.bincount(level, weights * (1.0 - values))
    if not won.sum() or not lost.sum():
        return float("nan")
    below = np.cumsum(lost) - lost
    return float((won * (below + lost / 2)).sum() / (won.sum() * lost.sum()))


def brier(scores: Array, values: Array, weights: Array) -> float:
    """Weighted mean of (V - v)^2."""
    return float(np.average((scores - values) ** 2, weights=weights))


def ece(scores: Array, values: Array, weights: Array, bins: int = 15) -> float:
    """Expected calibration error over `bins` equal intervals of [0, 1]."""
    index = np.minimum((scores * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(index, weights * (scores - values), bins)
    return float(np.abs(gaps).sum() / weights.sum())


def pairwise_accuracy(scores: Array, values: Array, group: npt.NDArray[np.int64]) -> tuple[float, int]:
    """Share of pairs of one group, with different values, that the scores order alike (ties half), and their number."""
    right, pairs = 0.0, 0
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        better, worse = np.nonzero(values[members][:, None] > values[members])
        gaps = scores[members][better] - scores[members][worse]
        right += float((gaps > 0).sum() + 0.5 * (gaps == 0).sum())
        pairs += len(gaps)
    return (right / pairs if pairs else float("nan")), pairs
