"""A state of a terminal is reached again as it was, or the episode says why not: what an agent left
behind is in no later episode.
"""

from collections.abc import Iterator

import pytest

from envs.sandbox.isolation import Means, means
from envs.terminal_bench.env import TerminalBenchEnv
from envs.terminal_bench.machine import MachineGone
from envs.terminal_bench.sandbox.machine import SandboxMachine
from r2v_dist.agent.tree import Tree, TreeEnv
from tests.sandboxes import require_bubblewrap

DEEP = """python3 -c '
import os
os.chdir("/app")
for n in range(200):
    os.mkdir("d" * 50)
    os.chdir("d" * 50)
os.close(os.open("bottom", os.O_CREAT))'"""
"""A file whose path has 10,000 characters."""


@pytest.fixture
def env() -> Iterator[TerminalBenchEnv]:
    require_bubblewrap()
    made = TerminalBenchEnv("tidy-modes@5", max_steps=60, terminal='{"command_s": 5.0}')
    made.reset()
    yield made
    made.close()


def said(env: TerminalBenchEnv, *actions: str) -> str:
    """The last observation of an episode."""
    env.reset()
    seen = [env.step(action)[0] for action in actions]
    return seen[-1]


def test_a_state_is_reached_again_by_a_snapshot(env: TerminalBenchEnv) -> None:
    tree = TreeEnv(env, Tree())  # type: ignore[arg-type]
    tree.reset()
    first = ("cd /tmp", "x=7; umask 027; alias say=echo; set -u; echo one > a; set -- p 'q r'")
    for action in first:
        tree.step(action)
    one = tree.step("echo two > a; x=8; rm -rf /app; cd /; set --").observation
    assert "changed" in one
    tree.reset()
    for action in first:
        tree.step(action)
    look = "say $x $(cat a) $(umask) $PWD $#-$2; ls -d /app; set -o | grep nounset"
    back = tree.step(look).observation
    assert back.splitlines()[:2] == ["7 one 0027 /tmp 2-q r", "/app"]
    assert back.split()[-5:] == ["nounset", "on", "[exit", "0;", "/tmp]"]
    assert not tree.drift


def test_a_state_with_a_process_is_played_again(env: TerminalBenchEnv) -> None:
    start = "(while sleep 0.1; do :; done) & echo $BASHPID > /tmp/shell; date +%N"
    started = said(env, start)
    env.step("echo x > /tmp/x")
    assert said(env, start) != started, "it was remembered where it should have been played"


@pytest.mark.parametrize(
    ("change", "look"), [("ulimit -Sf 77", "ulimit -Sf"), ("pushd /tmp", "popd; pwd")]
)
def test_a_shell_that_a_snapshot_would_not_have_is_played_again(
    env: TerminalBenchEnv, change: str, look: str
) -> None:
    first = said(env, change, look)
    said(env, change, "echo elsewhere")
    assert said(env, change, f"{look} ").split() == first.split()


def test_what_is_too_deep_for_a_path_is_removed_and_never_half_copied(
    env: TerminalBenchEnv,
) -> None:
    count = "find /app -name 'ddd*' -o -name bottom | wc -l"
    assert said(env, DEEP, count).startswith("201\n")
    assert said(env, count).startswith("0\n")
    assert said(env, DEEP, f"{count}; echo again").startswith("201\n")
    apart = DEEP.replace("/app", "/dev/shm")
    assert apart != DEEP
    assert said(env, apart, "ls /dev/shm | wc -l").startswith("1\n")
    assert said(env, "ls /dev/shm | wc -l").startswith("0\n")
    nested = f"mkdir -p /app/{'e/' * 1100}"
    assert said(env, nested, "ls -d /app/e").startswith("/app/e\n")
    assert said(env, nested, "ls -d /app/e; echo again").startswith("/app/e\n")


def test_a_system_that_was_moved_is_there_again(env: TerminalBenchEnv) -> None:
    moved = "mv /etc /etc2; mkdir /etc; ls /etc/ld.so.cache"
    assert "No such file" in said(env, moved)
    assert said(env, "ls -d /etc2 /etc/ld.so.cache").splitlines()[1] == "/etc/ld.so.cache"


def test_a_machine_that_cannot_be_brought_back_ends_the_episode(
    env: TerminalBenchEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(env, "echo one > /app/one")

    def gone(machine: SandboxMachine, snapshot: bytes) -> None:
        raise MachineGone("out of memory")

    monkeypatch.setattr(SandboxMachine, "restore", gone)
    env.reset()
    observation, reward, terminated, _, info = env.step("echo two > /app/two")
    assert (observation, reward) == ("Error: the terminal is gone: out of memory", 0.0)
    assert terminated
    assert info["stop_reason"] == "lost"


def test_memory_is_held_without_control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    require_bubblewrap()
    ungrouped = Means(means().isolation, None)
    monkeypatch.setattr("envs.terminal_bench.sandbox.machine.means", lambda: ungrouped)
    settings = '{"command_s": 20.0, "memory_mib": 128}'
    env = TerminalBenchEnv("tidy-modes@5", max_steps=60, terminal=settings)
    assert "MemoryError" in said(env, "python3 -c 'bytearray(200 << 20)'")
    several = "for n in 1 2 3; do python3 -c 'import time; x = bytearray(70 << 20); "
    several += "time.sleep(2); print(len(x) >> 20)' & done; wait"
    seen = said(env, several)
    assert 0 < seen.count("70\n") < 3
    assert "Killed" in seen
    assert said(env, "echo $((40 + 2))").startswith("42")
    env.close()
