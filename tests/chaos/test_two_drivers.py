"""Drivers that are killed, stopped, superseded and continued at the worst moments: no episode is
lost, none counts twice, and each ends in one line.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.faulty_run import BOUNDARIES, NEVER, Fault
from r2v_dist.storage import fence as fences
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import RunDir
from tests.faults import run_faulty, start_faulty
from tests.runs import outcomes

SHARD = ("r2v_dist.storage.arrow_file", "save_new")
MANIFEST = ("r2v_dist.storage.run_dir", "RunDir.complete")
EPOCH = ("r2v_dist.storage.fence", "take")
KILLS = [
    Fault(*MANIFEST, 1, "after", signal.SIGKILL),
    Fault(*EPOCH, 2, "after", signal.SIGKILL),
    Fault(*SHARD, 1, "before", signal.SIGKILL),
    Fault(*SHARD, 3, "after", signal.SIGKILL),
    Fault(*MANIFEST, 1, "before", signal.SIGKILL),
]
"""After the first stage; with a collector's epoch and no shard; before and after a shard; when all
of a stage but its manifest is there.
"""
STOP = Fault(*SHARD, 2, "before", signal.SIGSTOP)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bool]]:
    """The outcomes of a run that nothing disturbs."""
    run_dir = tmp_path_factory.mktemp("runs") / "calm"
    assert run_faulty(NEVER, run_dir) == (0, [])
    return outcomes(run_dir)


def until_stopped(process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def let_the_lease_run_out(run_dir: Path) -> None:
    os.utime(fences.path_of(run_dir, fences.latest(run_dir)), (0, 0))


@pytest.mark.slow
def test_kills_at_the_boundaries_of_shards_and_stages_lose_nothing(
    calm: list[tuple[str, bool]], tmp_path: Path
) -> None:
    for kill in KILLS:
        assert run_faulty(kill, tmp_path) == (-signal.SIGKILL, []), kill
    assert run_faulty(NEVER, tmp_path) == (0, [])
    assert outcomes(tmp_path) == calm


def test_a_stopped_driver_is_superseded_and_then_refused(
    calm: list[tuple[str, bool]], tmp_path: Path
) -> None:
    first = start_faulty(STOP, tmp_path)
    until_stopped(first)
    code, complaints = run_faulty(NEVER, tmp_path)
    assert (code, len(complaints)) == (2, 1)
    assert f"process {first.pid}, since 20" in complaints[0]
    assert complaints[0].endswith("is at work there; wait for it, end it or choose another run_dir")

    let_the_lease_run_out(tmp_path)
    second = start_faulty(STOP, tmp_path)
    until_stopped(second)
    # The first one is past its look at the lease: this shard arrives late.
    shards = len(late_shards(tmp_path))
    first.send_signal(signal.SIGCONT)
    _, said = first.communicate(timeout=120)
    *_, last = said.splitlines()
    assert first.returncode == 1
    assert f"process {second.pid}, since 20" in last
    assert last.endswith("has taken over; this run ends, and what it committed is kept")
    assert "Traceback" not in said
    assert len(late_shards(tmp_path)) == shards + 1

    second.send_signal(signal.SIGCONT)
    _, said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert outcomes(tmp_path) == calm
    run = RunDir(tmp_path)
    manifest = run.manifest("validate")
    assert manifest is not None
    assert run.lost(manifest) is None


def test_a_driver_that_is_superseded_after_its_last_stage_says_so(tmp_path: Path) -> None:
    first = start_faulty(BOUNDARIES, tmp_path)
    until_stopped(first)
    while RunDir(tmp_path).manifest("evaluate") is None:
        first.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        until_stopped(first)
    let_the_lease_run_out(tmp_path)
    code, [complaint] = run_faulty(NEVER, tmp_path)
    assert (code, complaint[-13:]) == (0, "is superseded")
    first.send_signal(signal.SIGCONT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 1, said
    assert said.splitlines()[-1].endswith(
        "has taken over; this run ends, and what it committed is kept"
    )


def late_shards(run_dir: Path) -> list[Path]:
    """The shards of the first driver's collector."""
    paths = rollout_store.shards(run_dir / "rollouts" / "validate")
    return [path for path in paths if rollout_store.epoch_of(path) == 2]
