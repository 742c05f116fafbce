"""The paired difference of frontier areas, one resample after the other: what the product's
vectorised comparison must equal.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from r2v_dist.stats.bootstrap import PairedDifference
from r2v_dist.stats.frontier import Ends, RouterCurve, frontier_auc


def auc_difference(
    a: Sequence[RouterCurve],
    b: Sequence[RouterCurve],
    ends: Ends,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> PairedDifference:
    """Frontier area of `a` minus that of `b`, each the mean over its training seeds (one curve
    each).

    Paired: a resample draws whole tasks, the same for all curves and for the ends.
    """
    tasks, rng = ends.slm.cost_PT.shape[1], np.random.default_rng(seed)

    def difference(drawn: npt.NDArray[np.int64]) -> float:
        there = ends.on(drawn)
        area_a, area_b = (
            np.mean([frontier_auc(curve.on(drawn), there) for curve in curves]) for curves in (a, b)
        )
        return float(area_a - area_b)

    values = [difference(rng.integers(0, tasks, (tasks,))) for _ in range(resamples)]
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return PairedDifference(difference(np.arange(tasks)), float(low), float(high))
