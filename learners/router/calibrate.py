"""Calibration of the risk heads on validation labels, by cross-validation over whole tasks.

Axes: N states, U different ones among them, P pools.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from r2v_dist.labels.table import LabelTable
from r2v_dist.router.calibration import Calibrator, choose_calibrator
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import ESTIMATES

_FOLDS = 5


def calibrate(
    heads: dict[str, Mlp],
    labels: LabelTable,
    raw_U: dict[str, Any],
    place_N: npt.NDArray[np.int64],
    ablation: str,
    seed: int,
) -> dict[str, Calibrator]:
    """The calibrator of every risk head, chosen on validation labels; the identity where the
    ablation says so.

    `raw_U` are risks of the different states, `place_N` says which one a state is. Branches of
    equal states are counted together, apart in every fifth of the tasks, so that tasks can be held
    out.
    """
    if ablation in ("uncalibrated", "no_brier"):
        return {name: Calibrator() for name in heads if name in ESTIMATES}
    calibrators: dict[str, Calibrator] = {}
    for name in labels.counts:
        if name in heads:
            calibrators[name] = _calibrator(name, labels, raw_U[name], place_N, seed)
    return calibrators


def _calibrator(
    name: str,
    labels: LabelTable,
    raw_U: npt.NDArray[np.float64],
    place_N: npt.NDArray[np.int64],
    seed: int,
) -> Calibrator:
    """Of one risk head. A pool is one state in one fifth of the tasks."""
    labelled_N = labels.counts[name] > 0
    n_N = labels.counts[name][labelled_N]
    failures_N = getattr(labels, name)[labelled_N] * n_N
    tasks, task_N = np.unique(labels.task[labelled_N], return_inverse=True)
    fold_of_task = np.random.default_rng(seed).permutation(len(tasks)) % _FOLDS
    pools_P, pool_N = np.unique(
        place_N[labelled_N] * _FOLDS + fold_of_task[task_N], return_inverse=True
    )
    n_P = np.bincount(pool_N, n_N).astype(np.float64)
    failures_P = np.bincount(pool_N, failures_N).astype(np.float64)
    raw_P = raw_U[pools_P // _FOLDS]
    fold_P = pools_P % _FOLDS
    return choose_calibrator(raw_P, failures_P, n_P, fold_P, seed, _FOLDS).calibrator
