"""Tasks that end their process, hang or raise, in real processes: the stage completes, names them
and nobody else.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.dispatcher import roll_out
from actors.runner_group import RunnerGroup
from benchmarks.chaos.poisoned_moor import walks
from benchmarks.chaos.tasks import CLUSTER, SETUP
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.quarantine import quarantined

ARMS = tuple(Arm(name, None, "simulated-0.3", "expert", 0) for name in ("slm_only", "teacher_only"))


def units(tasks: list[Task]) -> list[Unit]:
    return [Unit("evaluate", "hash", task, 0, 0, ARMS) for task in tasks]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def runners(ray_session: None, logs: Path) -> Iterator[RunnerGroup]:
    group = RunnerGroup(SETUP, None, None, CLUSTER, logs)
    yield group
    group.stop()


def test_tasks_that_kill_hang_or_raise_are_named_and_no_other_is(
    runners: RunnerGroup, logs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = walks(24, ["kill", "hang", "raise"])
    folder = tmp_path / "rollouts"
    totals = roll_out(units(tasks), folder, runners, CLUSTER, lambda *_: None)
    found = {one.task.split("-")[0]: one for one in quarantined(folder)}
    assert sorted(found) == ["hang", "kill", "raise"]
    assert [one.episodes for one in found.values()] == [2, 2, 2]
    for killer in ("kill", "hang"):
        assert re.search(r"\(process \d+ on \S+\) \(failed 3 times, on ", found[killer].detail)
    assert "ValueError: a walk without a trail (failed 3 times" in found["raise"].detail
    assert totals.quarantined == 6
    assert len(rollout_store.committed_keys(folder)) == totals.episodes == 2 * len(tasks)
    said = capfd.readouterr().err
    assert all(f"task {one.task} is given up" in said for one in found.values())
    texts = [path.read_text() for path in logs.glob("env_runner-*.log")]
    assert any("Timeout" in text and "in reset" in text for text in texts)
