"""The query-level baseline (docs/method.md, section 11): one logistic model of how SLM-only fares,
from goal and first observation.

Trained on training episodes, calibrated on validation episodes; exported as a joint `RouterModel`,
so that it is loaded and run like every other learned router.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.router.calibration import choose_calibrator, logistic_fit, sigmoid
from r2v_dist.router.model import Mlp, RouterModel
from r2v_dist.router.query_features import (
    QUERY_FEATURE_NAMES,
    QUERY_FEATURE_VERSION,
    query_features,
)
from r2v_dist.seeding import short_hash

Array = npt.NDArray[np.float64]
_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
_FOLDS = 5


@dataclass(frozen=True)
class QueryOutcomes:
    """SLM-only episodes: what was known before the first action, and whether they
    failed (0 or 1).
    """

    features_NF: Array
    failed_N: Array
    task_N: npt.NDArray[Any]

    @classmethod
    def from_rows(cls, table: pa.Table, alone: str = "slm_only") -> Self:
        """The perturbed episodes of the SLM alone (router `alone`) among rows of the
        rollout store.
        """
        chosen = pc.and_(
            pc.and_(pc.equal(table["t"], 0), pc.equal(table["router"], alone)),
            pc.is_valid(table["z"]),
        )
        rows = table.filter(chosen)
        return cls.of(
            rows["goal"].to_pylist(),
            rows["observation"].to_pylist(),
            [not won for won in rows["success"].to_pylist()],
            rows["task"].to_pylist(),
        )

    @classmethod
    def of(
        cls,
        goals: Sequence[str],
        first_observations: Sequence[str],
        failed: Sequence[bool],
        tasks: Sequence[str],
    ) -> Self:
        """One entry an episode in each."""
        return cls(
            query_features(goals, first_observations),
            np.array(failed, dtype=np.float64),
            np.array(tasks, dtype=np.str_),
        )


def train_query_router(train: QueryOutcomes, validation: QueryOutcomes, seed: int) -> RouterModel:
    """A ridge logistic regression whose strength is chosen by Brier score on held-out training
    tasks, then calibrated.

    Raises ValueError with fewer than two tasks in either.
    """
    mean_F = train.features_NF.mean(axis=0)
    spread_F = train.features_NF.std(axis=0)
    std_F = np.where(spread_F > 1e-9, spread_F, 1.0)

    def design(outcomes: QueryOutcomes) -> Array:
        return np.column_stack(
            [(outcomes.features_NF - mean_F) / std_F, np.ones(len(outcomes.failed_N))]
        )

    x_ND = design(train)
    one_N = np.ones(len(train.failed_N))
    nothing_D = np.zeros(len(mean_F) + 1)
    strength = min(_STRENGTHS, key=lambda candidate: _held_out_brier(x_ND, train, candidate, seed))
    w_D = logistic_fit(x_ND, train.failed_N, one_N, nothing_D, strength)
    raw_N = sigmoid(design(validation) @ w_D)
    calibrator = choose_calibrator(
        raw_N, validation.failed_N, np.ones(len(raw_N)), validation.task_N, seed
    ).calibrator
    return RouterModel(
        version=f"query-{short_hash(w_D.tolist(), mean_F.tolist(), std_F.tolist())[:12]}",
        mode="joint",
        mean_F=mean_F,
        std_F=std_F,
        heads={"rho": Mlp(((w_D[None, :-1], w_D[-1:]),))},
        calibrators={"rho": calibrator},
        feature_names=QUERY_FEATURE_NAMES,
        feature_version=QUERY_FEATURE_VERSION,
    )


def _held_out_brier(x_ND: Array, train: QueryOutcomes, strength: float, seed: int) -> float:
    tasks, task_N = np.unique(train.task_N, return_inverse=True)
    if len(tasks) < 2:
        raise ValueError(
            "a query-level router is chosen on held-out tasks: at least two training tasks are "
            "needed"
        )
    fold_N = (np.random.default_rng(seed).permutation(len(tasks)) % min(_FOLDS, len(tasks)))[task_N]
    squared = 0.0
    for fold in range(fold_N.max() + 1):
        inside_N = fold_N != fold
        w_D = logistic_fit(
            x_ND[inside_N],
            train.failed_N[inside_N],
            np.ones(inside_N.sum()),
            np.zeros(x_ND.shape[1]),
            strength,
        )
        squared += float(((sigmoid(x_ND[~inside_N] @ w_D) - train.failed_N[~inside_N]) ** 2).sum())
    return squared / len(x_ND)


QUERY = "query_level"
