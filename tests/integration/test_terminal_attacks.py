"""Hostile commands: the host and another terminal stay as they were, the row says what happened,
and no attack is a way to pass.
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

import envs.make  # noqa: F401 -- registers
from envs.sandbox.isolation import means
from envs.terminal_bench.env import TerminalBenchEnv
from envs.terminal_bench.machine import File
from envs.terminal_bench.sandbox.machine import SandboxMachine
from tests.sandboxes import require_bubblewrap
from tests.terminal_attacks import ATTACKS, Attack
from tests.terminal_forgeries import FORGERIES

SECRET = "r2v-bait-5c0f"
SETTINGS = {"observation_chars": 1500, "memory_mib": 256, "disk_mib": 32, "processes": 48}
IN_THE_FAST_SUITE = {
    "remove everything",
    "kill every process",
    "trace the supervisor",
    "another /bin",
    "a waiting thief of the verdict",
    "a thief that wakes himself",
    "another /etc with a library cache",
    "another /etc/ssl with a provider",
}


@pytest.fixture(scope="module")
def neighbour() -> Iterator[TerminalBenchEnv]:
    """Another terminal, with a file and a service of its own."""
    require_bubblewrap()
    env = TerminalBenchEnv("tidy-modes@1", max_steps=1000)
    env.reset()
    env.step("echo mine > /app/mine; python3 -m http.server 8099 > /dev/null 2>&1 & sleep 1")
    yield env
    env.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.01)
        yield server.getsockname()[1]
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.fixture
def slow_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that lie in the machine for a while before they run: time for a thief."""
    put = SandboxMachine.put

    def put_slowly(machine: SandboxMachine, files: Mapping[str, File]) -> None:
        put(machine, files)
        if any(path.startswith("/tests/") for path in files):
            time.sleep(0.5)

    monkeypatch.setattr(SandboxMachine, "put", put_slowly)


def _sandboxes() -> set[int]:
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if child.is_running()}


def _groups() -> set[str]:
    hierarchy = means().hierarchy
    folders = () if hierarchy is None else hierarchy.folders
    return {str(one) for _, folder in folders for one in folder.glob(f"r2v-{os.getpid()}-*")}


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(
            one, id=one.name, marks=() if one.name in IN_THE_FAST_SUITE else pytest.mark.slow
        )
        for one in (*ATTACKS, *FORGERIES)
    ],
)
def test_an_attack_gets_nothing(
    attack: Attack, neighbour: TerminalBenchEnv, port: int, tmp_path: Path, slow_hands: None
) -> None:
    bait = tmp_path / "secret"
    bait.write_text(SECRET)
    processes, groups, shared = _sandboxes(), _groups(), set(os.listdir("/dev/shm"))
    settings = json.dumps(SETTINGS | {"command_s": attack.command_s})
    env = TerminalBenchEnv(attack.task, max_steps=50, terminal=settings)
    env.reset()
    command = attack.command.replace("{bait}", str(bait)).replace("{port}", str(port))
    seen, reward, over, _, _ = env.step(command)
    assert re.search(attack.seen, seen), seen
    assert "LEAK" not in seen
    assert SECRET not in seen
    assert len(seen) < 2500
    assert over <= attack.gone
    if not over:
        after, reward, over, _, _ = env.step("echo $((40 + 2))")
        assert "42" in after or "[" in after
        if not over:
            _, reward, over, _, _ = env.step("submit")
    assert over
    assert reward == 0.0
    env.close()
    assert "mine" in neighbour.step("cat /app/mine; ps aux 2>/dev/null | wc -l")[0]
    assert _gone(processes)
    assert _groups() <= groups
    assert bait.read_text() == SECRET
    assert "big" not in set(os.listdir("/dev/shm")) - shared  # others use it too
    assert time.gmtime().tm_year > 2020


def _gone(before: set[int]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if _sandboxes() <= before:
            return True
        time.sleep(0.05)
    return False
