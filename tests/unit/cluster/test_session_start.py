"""A session ends: where nothing answers, where a call into C waits for ever, and where Ray could
not start workers.
"""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import session
from r2v_dist.cli import machine
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.errors import RuntimeFailure, UsageError
from tests.runs import ROOT

STUCK = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the shell says so
import ctypes, subprocess, sys
from cluster.guard import guarded

with guarded(grace_s=0.5):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""
BUSY = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the shell says so
import subprocess, sys, time
from cluster.guard import guarded, undisturbed

with guarded(grace_s=60):
    try:
        print("ready", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        with undisturbed():
            time.sleep(1)
        print("ended", flush=True)
"""

STARTING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the shell says so
from pathlib import Path
from cluster.session import ray_session
from r2v_dist.config.cluster import ClusterConfig

with ray_session(ClusterConfig(num_cpus=1), Path(sys.argv[1])):
    raise SystemExit("Ray has started")
"""


@pytest.fixture
def mute() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def started(program: str, *arguments: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def descendants(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def is_agent(process: psutil.Process) -> bool:
    """Whether it is one of the two processes that the raylet starts beside itself."""
    command = command_of(process)
    return "agent" in command.lower() and "raylet/raylet" not in command


def enter(config: ClusterConfig, logs: Path) -> None:
    with session.ray_session(config, logs):
        pass


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_in_c_for_ever_ends_with_its_children(how: signal.Signals) -> None:
    process = started(STUCK)
    child = int(process.stdout.readline())  # type: ignore[union-attr]
    time.sleep(0.5)  # so that the lock is being waited for
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "r2v: interrupted; run the same command again to continue\n"
    assert gone(child)


def test_an_ending_is_not_disturbed_by_a_second_signal() -> None:
    process = started(BUSY)
    process.stdout.readline()  # type: ignore[union-attr]
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "ended\n", "")


def test_ctrl_c_while_ray_starts_leaves_none_of_its_agents(tmp_path: Path) -> None:
    process = started(STARTING, str(tmp_path))
    begun = set[psutil.Process]()
    deadline = time.monotonic() + 120
    while process.poll() is None and not any(map(is_agent, begun)):
        assert time.monotonic() < deadline, [command_of(child) for child in begun]
        begun |= descendants(process.pid)
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Ray has started" not in errors
    left = [child for child in begun if not gone(child.pid)]
    assert not [command_of(child) for child in left]


def test_an_address_where_nothing_listens_is_named_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(
        RuntimeFailure,
        match=(
            rf"^cluster\.address = {re.escape(address)}: nothing answers there .*correct the "
            r"address$"
        ),
    ):
        enter(ClusterConfig(address=address), tmp_path)
    assert time.monotonic() - began < 30


def test_auto_follows_the_environment_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(
        RuntimeFailure,
        match=r"^cluster\.address = auto \(RAY_ADDRESS = 127\.0\.0\.1:9\): nothing answers there",
    ):
        enter(ClusterConfig(address="auto"), tmp_path)


def test_an_address_that_listens_and_is_mute_is_given_up(
    mute: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "JOIN_DEADLINE_S", 4.0)
    with pytest.raises(
        RuntimeFailure,
        match=rf"^cluster\.address = 127\.0\.0\.1:{mute}: Ray did not answer within 4 s",
    ):
        enter(ClusterConfig(address=f"127.0.0.1:{mute}"), tmp_path)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/home/me/my projects/r2v/.venv/bin/python", "a space"),
        ("/r&d/bin/python", "the character &"),
    ],
)
def test_a_path_from_which_ray_cannot_start_workers(
    path: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", path)
    complaint = rf"^{re.escape(path)}: Ray cannot start workers from a path with {named}; .*VENV="
    with pytest.raises(UsageError, match=complaint):
        enter(ClusterConfig(), tmp_path)


def test_other_letters_in_a_path_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/home/zoë/r2v-1.0_x/.venv/bin/python3.11")
    assert session.path_problem() == ""


def test_a_slow_start_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too slow four times is the end; what the tries left running is ended as well."""
    import ray

    tries, left = list[dict[str, object]](), list[subprocess.Popen[bytes]]()

    def slow(**options: object) -> None:
        tries.append(options)
        left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6399")
    with pytest.raises(
        RuntimeFailure,
        match=(
            r"^cluster\.address = local: Ray cannot be reached: The current node timed "
            r"out.*4 tries"
        ),
    ):
        enter(ClusterConfig(num_cpus=1), tmp_path)
    assert [one["address"] for one in tries] == ["local"] * 4
    assert [line.rpartition("; ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "try 2 of 4",
        "try 3 of 4",
        "try 4 of 4",
    ]
    assert not any(psutil.pid_exists(process.pid) for process in left)


def test_doctor_and_set_up_say_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my projects/.venv/bin/python")
    findings = machine.examine()
    assert "from a path with a space" in findings["path_problem"]
    assert findings["path_problem"] in machine.render(findings)
    told = subprocess.run(
        ["bash", "scripts/setup.sh", "/my projects/.venv"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 1
    assert told.stderr.startswith(
        "setup: /my projects/.venv: Ray cannot start workers from a path with a space"
    )
