"""Ranks that cannot be placed, that refuse their input, or that wait when the user gives up."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from cluster import resources
from learners.common.ray_train import run_ranks
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.errors import RuntimeFailure, UsageError
from tests.runs import ROOT

WAITING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the shell says so
import sys
from pathlib import Path
from cluster.session import ray_session
from learners.common.ray_train import run_ranks
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.deepspeed import DeepSpeedConfig

def loop():
    raise AssertionError("there is no room for a rank")

with ray_session(ClusterConfig(num_cpus=1), Path(sys.argv[1])):
    import ray

    @ray.remote(num_cpus=1)
    class Occupant:
        def ready(self):
            return True

    occupant = Occupant.remote()
    ray.get(occupant.ready.remote())
    print("waiting", flush=True)
    run_ranks(loop, DeepSpeedConfig(), "router", Path(sys.argv[1]))
"""


def test_more_ranks_than_cores_are_refused(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"^bc\.deepspeed\.ranks = 64: a rank needs 1 core each, so there is room for 4",
    ):
        run_ranks(lambda: None, DeepSpeedConfig(ranks=64), "bc", tmp_path)


@pytest.mark.parametrize(
    ("usage", "kind"),
    [(True, UsageError), pytest.param(False, RuntimeFailure, marks=pytest.mark.slow)],
)
def test_what_a_rank_refuses_is_not_tried_again(
    usage: bool, kind: type[Exception], ray_session: None, tmp_path: Path
) -> None:
    count = tmp_path / "tries"

    def refuse() -> None:  # local, so that it travels with its code
        with count.open("a") as tries:
            tries.write("x")
        raise (UsageError if usage else RuntimeFailure)("bc.batch_size = 10: no multiple")

    with pytest.raises(kind, match=r"^bc\.batch_size = 10: no multiple$"):
        run_ranks(refuse, DeepSpeedConfig(), "bc", tmp_path)
    assert count.read_text() == "x"


@pytest.mark.slow
def test_a_rank_that_dies_at_once_is_started_again_and_told_with_its_log(
    ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dead = tmp_path / "dead"

    def die_once() -> None:
        import os

        if not dead.is_file():
            print("this rank ran out of luck", flush=True)
            dead.write_text(str(os.getpid()))
            os.kill(os.getpid(), 9)

    run_ranks(die_once, DeepSpeedConfig(), "bc", tmp_path)
    pid = dead.read_text()
    assert f"learner bc: a rank died (process {pid} on " in capfd.readouterr().err
    logs = resources.decided().logs
    assert logs is not None
    deadline = time.monotonic() + 30
    while not any(
        "this rank ran out of luck" in log.read_text() for log in logs.glob(f"bc_rank-*-{pid}.log")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_ranks_that_die_while_they_start_are_started_again(
    ray_session: None, tmp_path: Path
) -> None:
    killed = set[int]()
    over = threading.Event()

    def kill_three() -> None:
        while len(killed) < 3 and not over.wait(0.02):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if child.pid not in killed and "RayTrainWorker" in " ".join(child.cmdline()):
                        child.kill()
                        killed.add(child.pid)

    ran = tmp_path / "ran"
    killer = threading.Thread(target=kill_three)
    killer.start()
    try:
        run_ranks(lambda: ran.touch(), DeepSpeedConfig(), "bc", tmp_path)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 3
    assert ran.is_file()


@pytest.mark.slow
def test_ranks_that_only_die_end_the_learner_with_their_log(
    ray_session: None, tmp_path: Path
) -> None:
    def die() -> None:
        import os

        print("nothing helps", flush=True)
        os.kill(os.getpid(), 9)

    told = r"^learner bc: (.|\n)*\nlog of the bc rank, process \d+ on (.|\n)*nothing helps"
    with pytest.raises(RuntimeFailure, match=told):
        run_ranks(die, DeepSpeedConfig(), "bc", tmp_path)


def test_ctrl_c_ends_a_run_whose_ranks_wait_for_room(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        started = psutil.Process(process.pid).children(recursive=True)
        if any("TrainController" in " ".join(child.cmdline()) for child in started):
            break
        time.sleep(0.2)
    time.sleep(3)  # the controller asks for room by now
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    told = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - told < 30
    assert process.returncode != 0
    assert errors.splitlines()[-1] in (
        "KeyboardInterrupt",
        "r2v: interrupted; run the same command again to continue",
    )
    assert psutil.wait_procs(started, timeout=20)[1] == []
