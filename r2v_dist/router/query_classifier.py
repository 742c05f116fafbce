"""The query-level baseline (docs/method.md, section 11): one logistic model of how SLM-only fares,
from goal and first observation.

Trained on training episodes, calibrated on validation episodes.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.router.logistic import Outcomes, train_logistic
from r2v_dist.router.model import RouterModel
from r2v_dist.router.query_features import (
    QUERY_FEATURE_NAMES,
    QUERY_FEATURE_VERSION,
    query_features,
)

QUERY = "query_level"


def outcomes_of_queries(table: pa.Table, slm_only_router: str = "slm_only") -> Outcomes:
    """The perturbed SLM-only episodes (`slm_only_router`) among rows of the rollout store."""
    mask = pc.and_(
        pc.and_(pc.equal(table["t"], 0), pc.equal(table["router"], slm_only_router)),
        pc.is_valid(table["z"]),
    )
    rows = table.filter(mask)
    return query_outcomes(
        rows["goal"].to_pylist(),
        rows["observation"].to_pylist(),
        [not success for success in rows["success"].to_pylist()],
        rows["task"].to_pylist(),
    )


def query_outcomes(
    goals: Sequence[str],
    first_observations: Sequence[str],
    failed: Sequence[bool],
    tasks: Sequence[str],
) -> Outcomes:
    """What was known before the first action of SLM-only episodes, and whether they failed; one
    entry an episode in each.
    """
    return Outcomes(
        query_features(goals, first_observations),
        np.array(failed, dtype=np.float64),
        np.array(tasks, dtype=np.str_),
        np.ones(len(goals)),
    )


def train_query_router(train: Outcomes, validation: Outcomes, seed: int) -> RouterModel:
    """A ridge logistic regression on what a goal tells. Raises ValueError with fewer than two tasks
    in either.
    """
    names = QUERY_FEATURE_NAMES
    return train_logistic(train, validation, seed, names, QUERY_FEATURE_VERSION, kind="query")
