"""The back end `docker` against a stand-in for an engine (tests/fake_engine.py): no real engine was
ever asked.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.terminal_bench.docker.machine import client
from envs.terminal_bench.env import TerminalBenchEnv
from envs.terminal_bench.places import task_for
from r2v_dist.errors import RuntimeFailure, UsageError
from tests.fake_engine import Engine, engine
from tests.sandboxes import require_bubblewrap
from tests.unit.envs.test_terminal_texts import V1, write

pytest.importorskip("docker", reason="the optional package docker is not installed")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Engine]:
    require_bubblewrap()
    with engine(tmp_path) as server:
        yield server


def settings(folder: Path) -> str:
    address = f"unix://{folder}/engine.sock"
    return json.dumps({"backend": "docker", "engine": address, "command_s": 1.5})


def said(env: TerminalBenchEnv, action: str) -> str:
    return env.step(action)[0]


def test_a_container_is_a_terminal(running: Engine, tmp_path: Path) -> None:
    env = TerminalBenchEnv("tidy-modes@1", expert=True, terminal=settings(tmp_path))
    env.reset()
    assert running.limits[0]["NetworkMode"] == "none"
    assert running.limits[0]["PidsLimit"] == 128
    assert said(env, "cd /tmp; x=5; f() { echo got $x; }; false") == "[exit 1; /tmp]"
    assert said(env, "echo $?; f; printf 'é\\n\\n'") == "1\ngot 5\né\n[exit 0; /tmp]"
    assert said(env, "cat <<'END' | wc -c\n" + "y" * 9000 + "\nEND") == "9001\n[exit 0; /tmp]"
    assert said(env, "sleep 30; echo no") == "[stopped after 1.5 s; /tmp]"
    assert "which ended the shell" in said(env, "exit 3")
    assert said(env, "pwd") == "/tmp\n[exit 0; /tmp]"
    env.close()
    assert running.containers == {}


def test_the_verdict_is_that_of_the_sandbox(running: Engine, tmp_path: Path) -> None:
    env = TerminalBenchEnv("tidy-modes@1", expert=True, terminal=settings(tmp_path))
    env.reset()
    for action in task_for("tidy-modes@1").oracle:
        env.step(action)
    assert env.step("submit")[1] == 1.0
    env.reset()
    assert env.step("submit")[1] == 0.0
    assert len(running.images) == 1
    assert sum(one == "POST /build" for one in running.asked) == 1
    env.close()


def test_a_failed_build_and_a_missing_engine_are_told(running: Engine, tmp_path: Path) -> None:
    broken = V1 | {"Dockerfile": "FROM debian:12\nRUN FAIL\n"}
    write(tmp_path / "mine", broken)
    env = TerminalBenchEnv(str(tmp_path / "mine"), terminal=settings(tmp_path))
    with pytest.raises(RuntimeFailure, match="the build failed"):
        env.reset()
    with pytest.raises(UsageError, match="no engine answers at unix:///nowhere"):
        client("unix:///nowhere.sock")
