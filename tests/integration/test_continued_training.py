"""Training that goes on with other ranks, or after a rank was killed, ends where it would have
ended anyway.
"""

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks import ranks as benchmark
from benchmarks.learner import play_expert
from learners.behaviour_cloning.train import clone_behaviour

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("learners")
    play_expert(place / "rollouts", 16)
    return place


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("zero_stage", "kind"), [(1, "lora"), (2, "full"), (3, "full"), (3, "lora")]
)
def test_four_ranks_then_two_then_four_learn_what_one_learns(
    zero_stage: int, kind: benchmark.Kind, folder: Path
) -> None:
    for row in benchmark.compare(folder, zero_stage, kind, ["4, then 2, then 4"]):
        assert row["loss_difference"] < benchmark.GOAL
        assert row["weight_difference"] < benchmark.GOAL


def test_a_rank_that_is_killed_under_ray_costs_nothing_but_time(
    ray_session: None, folder: Path
) -> None:
    settings = partial(benchmark.config_of, zero_stage=3)
    job = partial(benchmark.job_of, folder / "rollouts", config=settings(2))
    undisturbed = job(folder / "undisturbed")
    clone_behaviour(undisturbed)
    killed = job(folder / "killed")
    saved = killed.stage / "checkpoints" / f"checkpoint-{benchmark.EVERY}" / "complete"
    deaths: list[int] = []
    watch = threading.Thread(target=kill_one, args=(saved, deaths), daemon=True)
    watch.start()
    clone_behaviour(killed)
    assert len(deaths) == 1
    loss, weight = benchmark.differences(benchmark.learned(killed), benchmark.learned(undisturbed))
    assert max(loss, weight) < benchmark.GOAL


def kill_one(after: Path, deaths: list[int]) -> None:
    """Kill a rank of this process's Ray as soon as a file is there."""
    give_up = time.monotonic() + 200
    while not after.is_file() and time.monotonic() < give_up:
        time.sleep(0.02)
    victim = next(ranks())
    victim.kill()
    deaths.append(victim.pid)


def ranks() -> Iterator[psutil.Process]:
    """Ray Train's workers below this process."""
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::RayTrain") or any(
            "RayTrainWorker" in part for part in process.cmdline()
        ):
            yield process
