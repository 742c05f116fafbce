"""Quality of a verifier against soft labels v in [0, 1] from branches (docs/method.md, section 9).

`weights` are numbers of branches; a soft label v counts as v successes and 1 - v failures a branch.
Axes: N candidates, L distinct scores.
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
    """All measures at once. V is the probability of success as a risk is the probability of
    failure, so the measures of r2v_dist/stats/calibration_error.py serve both.
    """
    successes = values * weights
    has_both = 0 < successes.sum() < weights.sum()
    accuracy, pairs = pairwise_accuracy(scores, values, group)
    return VerifierMetrics(
        auroc=auroc(scores, successes, weights) if has_both else float("nan"),
        brier=brier_parts(scores, successes, weights).against_shares,
        ece=ece(scores, successes, weights),
        pairwise=accuracy,
        candidates=len(scores),
        pairs=pairs,
    )


def verifier_curves(scores: Array, values: Array, weights: Array) -> dict[str, Any]:
    """The points of a reliability diagram (`reliability` bins) and of a ROC curve: `roc` is a list
    of (share of failed branches, share of successful branches) scored at least as high, from (0, 0)
    to (1, 1), empty where all branches end alike.
    """
    successes = values * weights
    bins = reliability_bins(scores, successes, weights, equal_width(scores, BINS))
    return {
        "reliability": [asdict(point) for point in bins],
        "roc": roc_points(scores, successes, weights),
    }


def roc_points(scores: Array, successes: Array, weights: Array) -> list[tuple[float, float]]:
    """The ROC curve, one point a distinct score; the area under the curve is the AUROC."""
    levels, level_N = np.unique(-scores, return_inverse=True)
    successes_L = np.cumsum(np.bincount(level_N, successes, len(levels)))
    failures_L = np.cumsum(np.bincount(level_N, weights - successes, len(levels)))
    if successes_L[-1] == 0 or failures_L[-1] == 0:
        return []
    failure_shares = (failures_L / failures_L[-1]).tolist()
    success_shares = (successes_L / successes_L[-1]).tolist()
    return [(0.0, 0.0), *zip(failure_shares, success_shares, strict=True)]


def pairwise_accuracy(
    scores: Array, values: Array, group: npt.NDArray[np.int64]
) -> tuple[float, int]:
    """Among pairs of candidates of one group with different values, the share that the scores put
    in the same order (a tie counts half), and the number of such pairs.
    """
    agreements = 0.0
    pairs = 0
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order])) + 1
    for members in np.split(order, starts):
        better, worse = np.nonzero(values[members][:, None] > values[members])
        gaps = scores[members][better] - scores[members][worse]
        agreements += float((gaps > 0).sum() + 0.5 * (gaps == 0).sum())
        pairs += len(gaps)
    accuracy = agreements / pairs if pairs else float("nan")
    return accuracy, pairs
