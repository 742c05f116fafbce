"""Statistics against brute force and closed forms."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from r2v_dist.episodes import Arm, Episode, EpisodeKey, StopReason
from r2v_dist.errors import UsageError
from r2v_dist.evaluation.outcomes import arm_outcomes
from r2v_dist.router.baselines import entropy_of
from r2v_dist.stats.bootstrap import task_bootstrap_interval, worst_seed_success
from r2v_dist.stats.cvar import cvar_failure
from r2v_dist.storage import rollouts as rollout_store


def test_worst_seed_and_cvar_failure() -> None:
    outcomes = np.array([[1, 0, 1, 1, 1], [1, 0, 0, 1, 1]], dtype=float)
    assert worst_seed_success(outcomes) == 0.0
    assert cvar_failure(outcomes, 0.2) == 1.0
    assert cvar_failure(outcomes, 0.4) == pytest.approx(0.75)


def test_the_bootstrap_resamples_tasks() -> None:
    # Two tasks, one always solved and one never: the mean of two draws is 0, 1/2 or 1 with
    # probability 1/4, 1/2, 1/4.
    outcomes = np.repeat([[1.0], [0.0]], 50, axis=1)
    assert task_bootstrap_interval(outcomes, 4000, 0) == (0.0, 1.0)
    assert task_bootstrap_interval(np.ones((5, 3)), 200, 0) == (1.0, 1.0)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(0), 0
    for repetition in range(300):
        difficulty_T = rng.beta(2, 2, size=40)
        outcomes = (rng.random((40, 10)) < difficulty_T[:, None]).astype(float)
        low, high = task_bootstrap_interval(outcomes, 400, repetition)
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_entropy_of_a_uniform_and_of_a_truncated_distribution() -> None:
    assert entropy_of([math.log(1 / 8)] * 8) == pytest.approx(math.log(8))
    assert entropy_of([0.0]) == 0.0
    assert entropy_of([math.log(0.5)]) == pytest.approx(math.log(2))


def test_an_incomplete_arm_is_refused(tmp_path: Path) -> None:
    arm = Arm("slm_only", None, "policy", "expert", 0)

    def episode(task: str, z: int) -> Episode:
        key = EpisodeKey("evaluate", "hash", task, z, arm.id, 0)
        return Episode(key, "test", arm, "goal", (), z == 1, StopReason.NO_ACTION, "")

    episodes = [episode(task, z) for task, z in itertools.product("xy", (1, 2))]
    rollout_store.commit(tmp_path / "whole", 0, episodes)
    [found] = arm_outcomes(tmp_path / "whole")
    assert found.success_TZ.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    rollout_store.commit(tmp_path / "part", 0, episodes[:-1])
    with pytest.raises(UsageError, match="every task under every seed"):
        arm_outcomes(tmp_path / "part")
