"""Ridge logistic regression as a router: the plainest fitted baseline.

Its strength is chosen on held-out training tasks, its calibration on validation tasks. The result
is a joint `RouterModel`, so that it is stored, loaded and run like every other learned router.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from r2v_dist.router.calibration import choose_calibrator, logistic_fit, sigmoid
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import RouterModel
from r2v_dist.router.scaler import Scaler
from r2v_dist.seeding import short_hash

Array = npt.NDArray[np.float64]
_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_FOLDS = 5


@dataclass(frozen=True)
class Outcomes:
    """What is known when a prediction is made, what came of it (0 or 1), the task it belongs to,
    and how much it counts.
    """

    features_NF: Array
    failed_N: Array
    task_N: npt.NDArray[Any]
    weight_N: Array

    def where(self, keep_N: npt.NDArray[np.bool_]) -> "Outcomes":
        """The rows that a mask keeps."""
        return Outcomes(
            self.features_NF[keep_N],
            self.failed_N[keep_N],
            self.task_N[keep_N],
            self.weight_N[keep_N],
        )


@dataclass(frozen=True)
class _Rows:
    """Standardises features; those that may have no weight, and those that never vary, become 0."""

    scaler: Scaler
    used_F: npt.NDArray[np.bool_]

    def __call__(self, outcomes: Outcomes) -> Array:
        """Rows of the regression, a 1 for the intercept at the end."""
        scaled_NF = np.where(self.used_F, self.scaler(outcomes.features_NF), 0.0)
        return np.column_stack([scaled_NF, np.ones(len(scaled_NF))])


def train_logistic(
    train: Outcomes,
    validation: Outcomes,
    seed: int,
    names: tuple[str, ...],
    feature_version: str,
    uses: Collection[str] | None = None,
    kind: str = "logistic",
) -> RouterModel:
    """Fit on `train`, calibrate on `validation`; `uses` names the features that may have a weight,
    None all of them.

    Raises ValueError with fewer than two tasks in either.
    """
    scaler = Scaler.of(train.features_NF, train.weight_N)
    rows_of = _Rows(scaler, np.array([uses is None or name in uses for name in names]))
    x_ND = rows_of(train)
    strength = min(_STRENGTHS, key=lambda candidate: _held_out_brier(x_ND, train, candidate, seed))
    w_D = _fit(x_ND, train, strength)
    raw_N = sigmoid(rows_of(validation) @ w_D)
    failures_N = validation.failed_N * validation.weight_N
    choice = choose_calibrator(raw_N, failures_N, validation.weight_N, validation.task_N, seed)
    weights = [values.tobytes() for values in (w_D, *scaler.arrays)]
    return RouterModel(
        version=f"{kind}-{short_hash(*weights)[:12]}",
        mode="joint",
        scaler=scaler,
        heads={"rho": Mlp(((w_D[None, :-1], w_D[-1:]),))},
        calibrators={"rho": choice.calibrator},
        feature_names=names,
        feature_version=feature_version,
    )


def _fit(x_ND: Array, outcomes: Outcomes, strength: float) -> Array:
    """Weights of the features, which are drawn towards 0, then the intercept, drawn alike."""
    failures_N = outcomes.failed_N * outcomes.weight_N
    return logistic_fit(x_ND, failures_N, outcomes.weight_N, np.zeros(x_ND.shape[1]), strength)


def _held_out_brier(x_ND: Array, train: Outcomes, strength: float, seed: int) -> float:
    """Brier score on held-out tasks, weighted as the fit is."""
    tasks, task_N = np.unique(train.task_N, return_inverse=True)
    if len(tasks) < 2:
        raise ValueError("strength is chosen on held-out tasks: give at least two training tasks")
    fold_of_task = np.random.default_rng(seed).permutation(len(tasks)) % min(_FOLDS, len(tasks))
    fold_N = fold_of_task[task_N]
    squared = 0.0
    for fold in range(fold_N.max() + 1):
        inside_N = fold_N != fold
        w_D = _fit(x_ND[inside_N], train.where(inside_N), strength)
        error_N = sigmoid(x_ND[~inside_N] @ w_D) - train.failed_N[~inside_N]
        squared += float((train.weight_N[~inside_N] * error_N**2).sum())
    return squared / float(train.weight_N.sum())
