"""The lease on a run directory: one driver at a time, no driver for ever, and no way back for one
that was superseded.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2v_dist.errors import Superseded, UsageError
from r2v_dist.processes import identity
from r2v_dist.storage import fence as fences
from r2v_dist.storage.fence import Fence, Record
from r2v_dist.storage.lease import holding
from r2v_dist.storage.run_dir import RunDir
from tests.runs import ROOT

ELSEWHERE: Record = {
    "host": "node7",
    "pid": os.getpid(),
    "since": "2026-01-02T03:04:05+00:00",
    "machine": "another machine",
    "started": identity.started(os.getpid()),
    "lease_s": 3600.0,
}


@contextlib.contextmanager
def beating(fence: Fence) -> Iterator[None]:
    """Its driver gives signs of life while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            fences.renew(fence.path)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()


def taken(root: Path, epoch: int, **changes: object) -> Fence:
    """An epoch of a driver that gives no sign of life by itself."""
    fence = fences.take(root, epoch, {**ELSEWHERE, **changes})
    assert fence is not None
    return fence


def last_epoch_after_a_run(root: Path) -> int:
    with holding(root, 60) as lease:
        return lease.fence.epoch


def test_a_second_driver_is_told_who_is_at_work(tmp_path: Path) -> None:
    with holding(tmp_path, 60), pytest.raises(UsageError) as refused, holding(tmp_path, 60):
        pass
    said = str(refused.value)
    assert said.startswith(f"run_dir = {tmp_path}: another run (host {socket.gethostname()}, ")
    assert f"process {os.getpid()}, since 2" in said
    assert said.endswith("is at work there; wait for it, end it or choose another run_dir")
    assert "\n" not in said


def test_every_driver_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    assert [last_epoch_after_a_run(tmp_path) for _ in range(3)] == [1, 2, 3]


def test_a_killed_driver_on_this_machine_keeps_nobody_waiting(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from r2v_dist.storage.lease import holding\n"
        f"with holding(Path({str(tmp_path)!r}), 86400): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert last_epoch_after_a_run(tmp_path) == 2


def test_a_process_id_that_was_given_away_again_is_no_driver(tmp_path: Path) -> None:
    taken(tmp_path, 4, machine=identity.machine(), started="1")
    assert last_epoch_after_a_run(tmp_path) == 5


@pytest.mark.parametrize("machine", ["another machine", identity.machine()])
def test_whoever_is_silent_for_a_lease_is_superseded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], machine: str
) -> None:
    silent = taken(tmp_path, 1, machine=machine)
    os.utime(silent.path, (0, 0))
    assert last_epoch_after_a_run(tmp_path) == 2
    said = capsys.readouterr().err
    assert "host node7" in said
    assert said.endswith("gives no sign of life and is superseded\n")
    with pytest.raises(Superseded, match=r"another run \(host .*\) has taken over; this run ends"):
        silent.require()


def test_a_driver_elsewhere_that_gives_signs_of_life_stays(tmp_path: Path) -> None:
    alive = taken(tmp_path, 1)
    told = r"host node7, .* is at work there; wait for it, end it "
    with beating(alive), pytest.raises(UsageError, match=told):
        last_epoch_after_a_run(tmp_path)
    alive.require()


def test_a_driver_elsewhere_that_takes_its_next_epoch_stays(tmp_path: Path) -> None:
    taken(tmp_path, 1)
    on_its_way = threading.Timer(0.2, lambda: taken(tmp_path, 2))
    on_its_way.start()
    with pytest.raises(UsageError, match="host node7"):
        last_epoch_after_a_run(tmp_path)
    on_its_way.join()


def test_a_lease_that_is_given_back_elsewhere_is_free_at_once(tmp_path: Path) -> None:
    other = taken(tmp_path, 1)
    on_its_way = threading.Timer(0.2, lambda: fences.end(other, "now"))
    on_its_way.start()
    assert last_epoch_after_a_run(tmp_path) == 2
    on_its_way.join()


def test_a_lease_that_cannot_be_read_ends_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = taken(tmp_path, 1).path
    cut.write_text('{"host": "no')
    os.utime(cut, (0, 0))
    assert last_epoch_after_a_run(tmp_path) == 2
    assert "another run gives no sign of life" in capsys.readouterr().err


def test_an_older_version_that_is_at_work_is_seen_by_its_lock(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run is at work there; wait for it"):
            last_epoch_after_a_run(tmp_path)
    assert last_epoch_after_a_run(tmp_path) == 1


@pytest.mark.parametrize("links", [True, False])
def test_of_many_takers_one_has_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def no_hard_links(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", no_hard_links)
    start = threading.Barrier(16)
    fortunate: list[Fence] = []

    def grab() -> None:
        start.wait()
        fence = fences.take(tmp_path, 1, ELSEWHERE)
        if fence is not None:
            fortunate.append(fence)

    takers = [threading.Thread(target=grab) for _ in range(16)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert len(fortunate) == 1
    fortunate[0].require()


def wait_while_another_takes_over(root: Path) -> None:
    with holding(root, 0.4) as lease:
        taken(root, lease.fence.epoch + 1)
        threading.Event().wait(60)


def test_the_loss_interrupts_whatever_the_driver_waits_for(tmp_path: Path) -> None:
    with pytest.raises(Superseded, match="host node7"):
        wait_while_another_takes_over(tmp_path)
    assert "ended" not in json.loads((tmp_path / "lease" / "000002.json").read_text())


def test_a_deleted_lease_is_lost(tmp_path: Path) -> None:
    mine = taken(tmp_path, 1)
    mine.path.unlink()
    with pytest.raises(Superseded, match=r"lease/000001\.json was changed or deleted"):
        mine.require()
    taken(tmp_path, 1)
    with pytest.raises(Superseded, match=r"lease/000001\.json was changed or deleted"):
        mine.require()


def test_a_new_fence_ends_the_one_before(tmp_path: Path) -> None:
    with holding(tmp_path, 60) as lease:
        first = lease.fence
        second = lease.next_fence()
        with pytest.raises(Superseded):
            first.require()
        second.require()
        lease.require()
    assert last_epoch_after_a_run(tmp_path) == 3


def test_a_superseded_driver_changes_no_record(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    with folder.lock(60) as run:
        run.begin("collect", "hash")
        assert run.lease is not None
        taken(tmp_path, run.lease.fence.epoch + 1)
        with pytest.raises(Superseded):
            run.begin("collect", "other inputs")
        with pytest.raises(Superseded):
            run.complete("collect", "hash", 1.0, {})
    assert folder.manifest("collect") is None
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["collect"]
