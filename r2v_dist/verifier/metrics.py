"""How good a verifier is (docs/method.md, section 9): soft labels v in [0, 1] from branches, numpy
only.

Axes: N candidates. `weights` are numbers of branches; a soft label counts as that share of
successes and failures.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from r2v_dist.stats.calibration_error import (
    BINS,
    auroc,
    brier_parts,
    ece,
    equal_width,
    reliability_bins,
)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class VerifierMetrics:
    """`pairwise` is over pairs of one state whose branch values differ; measures without data are
    nan.
    """

    auroc: float
    brier: float
    ece: float
    pairwise: float
    candidates: int
    pairs: int


def verifier_metrics(
    scores: Array, values: Array, weights: Array, group: npt.NDArray[np.int64]
) -> VerifierMetrics:
    """All measures at once. V is the chance of a success as a risk is that of a failure, so risk
    measures serve it too.
    """
    successes = values * weights
    both = 0 < successes.sum() < weights.sum()
    accuracy, pairs = pairwise_accuracy(scores, values, group)
    return VerifierMetrics(
        auroc=auroc(scores, successes, weights) if both else float("nan"),
        brier=brier_parts(scores, successes, weights).against_shares,
        ece=ece(scores, successes, weights),
        pairwise=accuracy,
        candidates=len(scores),
        pairs=pairs,
    )


def verifier_curves(scores: Array, values: Array, weights: Array) -> dict[str, Any]:
    """What a reliability diagram and a ROC curve are drawn from: `reliability` bins, and `roc`
    points (failed, successful branches scored at least as high) from (0, 0) to (1, 1), empty where
    all branches end alike.
    """
    successes = values * weights
    bins = reliability_bins(scores, successes, weights, equal_width(scores, BINS))
    return {
        "reliability": [asdict(one) for one in bins],
        "roc": roc_points(scores, successes, weights),
    }


def roc_points(scores: Array, successes: Array, weights: Array) -> list[tuple[float, float]]:
    """The ROC curve, one point a distinct score; the area under it is the AUROC."""
    levels, level_N = np.unique(-scores, return_inverse=True)
    won_L, lost_L = (
        np.cumsum(np.bincount(level_N, counts, len(levels)))
        for counts in (successes, weights - successes)
    )
    if won_L[-1] == 0 or lost_L[-1] == 0:
        return []
    return [
        (0.0, 0.0),
        *zip((lost_L / lost_L[-1]).tolist(), (won_L / won_L[-1]).tolist(), strict=True),
    ]


def pairwise_accuracy(
    scores: Array, values: Array, group: npt.NDArray[np.int64]
) -> tuple[float, int]:
    """Share of pairs of one group, with different values, that the scores order alike (ties half),
    and their number.
    """
    right = 0.0
    pairs = 0
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        better, worse = np.nonzero(values[members][:, None] > values[members])
        gaps = scores[members][better] - scores[members][worse]
        right += float((gaps > 0).sum() + 0.5 * (gaps == 0).sum())
        pairs += len(gaps)
    return (right / pairs if pairs else float("nan")), pairs
