"""The query-level baseline learns what a goal tells, and only that."""

from pathlib import Path

import numpy as np
import pytest

from r2v_dist.episodes import Arm, Episode, EpisodeKey, Step, StopReason
from r2v_dist.errors import UsageError
from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.router.logistic import Outcomes
from r2v_dist.router.model import RouterModel
from r2v_dist.router.query_classifier import (
    outcomes_of_queries,
    query_outcomes,
    train_query_router,
)
from r2v_dist.router.query_features import QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION
from r2v_dist.stats.calibration_error import auroc, brier_parts
from r2v_dist.storage import step_table


def outcomes(tasks: int, seed: int, told: bool = True) -> tuple[Outcomes, np.ndarray]:
    """Ten episodes a task; a task that asks to cook fails at .8, others at .1. Untold, the goal
    does not say which.
    """
    rng = np.random.default_rng(seed)
    hard = np.repeat(rng.random(tasks) < 0.4, 10)
    risk = np.where(hard, 0.8, 0.1)
    goals = [
        ("cook the meal" if h and told else "find the key") + f" in room {rng.integers(5)}"
        for h in hard.tolist()
    ]
    failed = (rng.random(len(risk)) < risk).tolist()
    return query_outcomes(
        goals, ["a room"] * len(goals), failed, [f"{i // 10}" for i in range(len(goals))]
    ), risk


def test_it_finds_the_risk_that_a_goal_tells(tmp_path: Path) -> None:
    (train, _), (validation, _), (test, risk) = outcomes(60, 0), outcomes(40, 1), outcomes(60, 2)
    model = train_query_router(train, validation, seed=0)
    score = model.predict(test.features_NF).score
    assert np.abs(score - risk).mean() < 0.06
    n = np.ones(len(score))
    assert auroc(score, test.failed_N, n) > 0.8
    parts = brier_parts(score, test.failed_N, n)
    assert parts.brier < parts.constant
    model.save(tmp_path)
    again = RouterModel.load(tmp_path, QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION)
    np.testing.assert_array_equal(again.predict(test.features_NF).score, score)
    with pytest.raises(UsageError, match="feature_version"):
        RouterModel.load(tmp_path, FEATURE_NAMES)


def test_it_is_constant_where_goals_tell_nothing() -> None:
    (train, _), (validation, _), (test, risk) = (
        outcomes(60, seed, told=False) for seed in (0, 1, 2)
    )
    score = train_query_router(train, validation, seed=0).predict(test.features_NF).score
    assert score.std() < 0.12
    assert score.mean() == pytest.approx(risk.mean(), abs=0.12)


def test_only_perturbed_slm_only_episodes_teach() -> None:
    def episode(router: str, z: int | None, won: bool, steps: int) -> Episode:
        arm = Arm(router, None, "p", "expert", 0)
        step = Step("a room", "a room", (), "slm", "wait", None, True, None, None, 0, 0, False)
        key = EpisodeKey("labels", "h", "task", z, arm.id, 0)
        return Episode(key, "train", arm, "find it", (step,) * steps, won, StopReason.WON, "done")

    rows = step_table.to_table(
        [
            episode("slm_only", 3, False, 2),
            episode("slm_only", None, True, 1),
            episode("random", 4, True, 2),
            episode("slm_only", 5, True, 0),
        ]
    )
    found = outcomes_of_queries(rows)
    assert found.failed_N.tolist() == [1.0]
    assert found.features_NF[0, :2].tolist() == [2, 2]
    with pytest.raises(ValueError, match="two training tasks"):
        train_query_router(found, found, 0)
