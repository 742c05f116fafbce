"""Where the thresholds of a sweep come from: scores along the SLM's own path."""

import math
from pathlib import Path

import pytest

from r2v_dist.episodes import Arm, Episode, EpisodeKey, Step, StopReason
from r2v_dist.errors import RuntimeFailure
from r2v_dist.evaluation.threshold_selection import grid
from r2v_dist.storage import rollouts as rollout_store


def watched(folder: Path, router: str, scores: list[list[float]]) -> Path:
    """Episodes that a router only watched."""
    arm = Arm(router, math.inf, "policy", "expert", 0)

    def step(score: float) -> Step:
        return Step("seen", "seen", (), "slm", "wait", None, True, score, None, 0, 0, False)

    episodes = [
        Episode(
            EpisodeKey("validate", "hash", f"task {i}", 1, arm.id, 0),
            "validation",
            arm,
            "goal",
            tuple(map(step, own)),
            True,
            end,
            "",
        )
        for i, (own, end) in enumerate((own, StopReason.WON) for own in scores)
    ]
    rollout_store.commit(folder, 0, episodes)
    return folder


def test_every_episode_weighs_the_same(tmp_path: Path) -> None:
    """One step of .9 weighs as much as eight of .1 and .2: half of the weight is at .9."""
    folder = watched(tmp_path, "r2v", [[0.9], [0.1, 0.2] * 4])
    assert grid(folder, ("r2v",), (0.4, 0.6)) == {"r2v": [0.2, 0.9]}


def test_a_threshold_that_every_step_reaches_is_left_out(tmp_path: Path) -> None:
    folder = watched(tmp_path, "entropy", [[0.5, 0.5], [0.5]])
    assert grid(folder, ("entropy",), (0.1, 0.5)) == {"entropy": []}


def test_a_router_that_tells_no_states_apart_is_an_error(tmp_path: Path) -> None:
    folder = watched(tmp_path, "r2v", [[0.0, 0.0], [0.0]])
    with pytest.raises(RuntimeFailure, match=r"r2v's score is 0 nearly everywhere.*labels\.pairs"):
        grid(folder, ("r2v",), (0.1, 0.5))
