"""Shared fixtures: a few generated games (cached between runs), the committed tiny model, and a Ray
session.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from envs.coding.judge import Judge
from envs.sandbox import Sandbox
from envs.textworld.games import GameFamily, draw_games
from envs.textworld.generator import generate
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.places import cache_folder
from r2v_dist.episodes import Task
from tests.inline_runs import InterruptedRun, shared_run
from tests.runs import ROOT
from tests.sandboxes import require_bubblewrap

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "r2v", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("r2v")

GAME_CACHE = cache_folder("textworld")
QUESTS = GameFamily(
    "custom",
    (("instructions", "full"), ("objects", (3, 6)), ("quest_length", (2, 4)), ("rooms", (1, 3))),
)


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The committed base model."""
    return ROOT / "models" / "textworld-tiny"


@pytest.fixture(scope="session")
def games() -> list[Path]:
    """Four small generated quests."""
    return generate(draw_games([QUESTS], "tests", 4, 0), GAME_CACHE, workers=2)


@pytest.fixture(scope="session")
def tasks(games: list[Path]) -> list[Task]:
    """The quests as test tasks."""
    return [
        Task(game.stem, "test", "r2v/TextWorld-v0", (("game", str(game)), ("max_steps", 12)))
        for game in games
    ]


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A working sandbox with bubblewrap."""
    require_bubblewrap()
    with Sandbox() as started:
        yield started


@pytest.fixture(scope="session")
def judge(sandbox: Sandbox) -> Judge:
    """Verdicts, with expected outputs cached between runs."""
    return Judge(sandbox)


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real local Ray, shared by the tests of this process."""
    from cluster.session import ray_session as session

    with session(ClusterConfig(num_cpus=4), tmp_path_factory.mktemp("logs")):
        yield


@pytest.fixture(scope="session")
def interrupted_run(tmp_path_factory: pytest.TempPathFactory) -> InterruptedRun:
    """The simulated configuration, run in one process without Ray: interrupted once, and finished
    by the same command. Processes that play tests side by side share it, and only read.
    """
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    base = tmp_path_factory.getbasetemp()
    return shared_run((base if alone else base.parent) / "interrupted")


@pytest.fixture(scope="session")
def simulated_run(interrupted_run: InterruptedRun) -> Path:
    """A finished run of the simulated configuration, made by the command line."""
    return interrupted_run.run_dir
