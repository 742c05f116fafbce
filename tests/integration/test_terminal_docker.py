"""The back end `docker` against a stand-in for an engine (tests/fake_engine.py), and against a real
one where R2V_TEST_ENGINE has its address.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from envs.terminal_bench.docker.engine import client
from envs.terminal_bench.docker.machine import DockerMachine
from envs.terminal_bench.env import TerminalBenchEnv
from envs.terminal_bench.machine import File
from envs.terminal_bench.places import task_for
from r2v_dist.errors import RuntimeFailure, UsageError
from tests.fake_engine import Engine, engine
from tests.sandboxes import require_bubblewrap
from tests.terminal_forgeries import FORGERIES
from tests.unit.envs.test_terminal_texts import V1, write

pytest.importorskip("docker", reason="the optional package docker is not installed")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Engine]:
    require_bubblewrap()
    with engine(tmp_path) as server:
        yield server


def settings(folder: Path, command_s: float = 20.0) -> str:
    address = f"unix://{folder}/engine.sock"
    return json.dumps({"backend": "docker", "engine": address, "command_s": command_s})


def said(env: TerminalBenchEnv, action: str) -> str:
    return env.step(action)[0]


def test_a_container_is_a_terminal(running: Engine, tmp_path: Path) -> None:
    env = TerminalBenchEnv("tidy-modes@1", expert=True, terminal=settings(tmp_path, 4.0))
    env.reset()
    assert running.limits[0]["NetworkMode"] == "none"
    assert running.limits[0]["PidsLimit"] == 128
    assert said(env, "cd /tmp; x=5; f() { echo got $x; }; false") == "[exit 1; /tmp]"
    assert said(env, "echo $?; f; printf 'é\\n\\n'") == "1\ngot 5\né\n[exit 0; /tmp]"
    assert said(env, "cat <<'END' | wc -c\n" + "y" * 9000 + "\nEND") == "9001\n[exit 0; /tmp]"
    assert said(env, "sleep 30; echo no") == "[stopped after 4 s; /tmp]"
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


def test_killing_every_process_leaves_the_container(running: Engine, tmp_path: Path) -> None:
    env = TerminalBenchEnv("tidy-modes@1", terminal=settings(tmp_path))
    env.reset()
    assert "alive" in said(env, "sleep 100 & kill -9 -1; echo alive")
    assert "42" in said(env, "echo $((40 + 2))")
    assert env.step("submit")[1:3] == (0.0, True)
    env.close()


def test_keys_that_no_program_reads_do_not_reach_the_shell(running: Engine, tmp_path: Path) -> None:
    env = TerminalBenchEnv("tidy-modes@1", terminal=settings(tmp_path))
    env.reset()
    assert said(env, "keys i hello Escape :wq Enter x") == "[typed; /app]"
    assert said(env, "sleep 0.5 & wait").startswith("[")
    assert said(env, "echo $((40 + 2))") == "42\n[exit 0; /app]"
    env.close()


V2 = {
    "task.toml": 'version = "1.0"\n[verifier]\ntimeout_sec = 9.0\n',
    "instruction.md": "Do it.\n",
    "environment/Dockerfile": "FROM debian:12\nWORKDIR /app\n",
    "solution/solve.sh": "echo done > /app/done\n",
    "tests/test.sh": "[ -e /app/done ] && echo 1 > /logs/verifier/reward.txt\n",
}


def test_tests_of_many_files_are_all_looked_after(running: Engine, tmp_path: Path) -> None:
    many = {f"tests/data/{number:04}{'x' * 160}": "x" for number in range(450)}
    write(tmp_path / "mine", V2 | many)
    env = TerminalBenchEnv(str(tmp_path / "mine"), terminal=settings(tmp_path))
    for actions, reward in (((), 0.0), (("echo done > done",), 1.0)):
        env.reset()
        for action in actions:
            env.step(action)
        assert env.step("submit")[1] == reward
    env.close()


def test_a_program_whose_deadline_was_stopped_is_not_waited_for(
    running: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envs.terminal_bench.docker.machine._GRACE_S", 0.2)
    machine = DockerMachine(
        client(f"unix://{tmp_path}/engine.sock"), task_for("tidy-modes@1"), 256, 64
    )
    started = time.monotonic()
    ran = machine.run(["/bin/bash", "-c", "kill -STOP $PPID; sleep 50"], "/", {}, 0.3)
    assert ran.code is None
    assert time.monotonic() - started < 20
    machine.close()


@pytest.fixture
def slow_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that lie in the machine for a while before they run: time for a thief."""
    put = DockerMachine.put

    def put_slowly(machine: DockerMachine, files: Mapping[str, File]) -> None:
        put(machine, files)
        time.sleep(0.5)

    monkeypatch.setattr(DockerMachine, "put", put_slowly)


def test_no_program_runs_while_the_tests_are_put_in_place(
    running: Engine, tmp_path: Path, slow_hands: None
) -> None:
    env = TerminalBenchEnv("serve-folder@2", terminal=settings(tmp_path))
    for thief in FORGERIES[:2]:
        env.reset()
        assert "done" in said(env, thief.command)
        assert env.step("submit")[1] == 0.0
    env.close()


@pytest.mark.slow
@pytest.mark.skipif("R2V_TEST_ENGINE" not in os.environ, reason="R2V_TEST_ENGINE names no engine")
@pytest.mark.parametrize("name", ["tidy-modes@1", "cut-release@1", "serve-folder@2"])
def test_a_real_engine(name: str, slow_hands: None) -> None:
    terminal = {"backend": "docker", "engine": os.environ["R2V_TEST_ENGINE"], "command_s": 5.0}
    env = TerminalBenchEnv(name, terminal=json.dumps(terminal))
    task = task_for(name)
    plays = [(task.oracle, 1.0), ((), 0.0), (task.wrong, 0.0)]
    plays += [((thief.command,), 0.0) for thief in FORGERIES[:2]]
    for actions, reward in plays:
        env.reset()
        for action in actions:
            env.step(action)
        assert "alive" in said(env, "echo alive")
        assert env.step("submit")[1] == reward
    env.reset()
    assert "alive" in said(env, "sleep 100 & kill -9 -1; echo alive")
    assert env.step("submit")[1] == 0.0
    env.close()


COMPOSED = {
    "task.yaml": "instruction: Fetch the page of api.\n",
    "docker-compose.yaml": "services:\n  client:\n    build: {context: client}\n"
    "    environment: ['API=http://api:8000']\n"
    "  api:\n    build: ./api\n    command: python3 -m http.server 8000\n"
    "    healthcheck: {test: 'bash -c \"exec 3<> /dev/tcp/127.0.0.1/8000\"'}\n",
    "client/Dockerfile": "FROM debian:bookworm-slim\nWORKDIR /app\n",
    "api/Dockerfile": "FROM debian:bookworm-slim\nWORKDIR /srv\nCOPY page .\n",
    "api/page": "hello\n",
    "solution.sh": "python3 -c 'import os, urllib.request as u; "
    'print(u.urlopen(os.environ["API"] + "/page").read().decode(), end="")\' > got\n',
    "run-tests.sh": '[ "$(cat /app/got)" = hello ]\n',
}


@pytest.mark.slow
@pytest.mark.skipif("R2V_TEST_ENGINE" not in os.environ, reason="R2V_TEST_ENGINE names no engine")
def test_containers_beside_the_terminal_are_started_and_removed(tmp_path: Path) -> None:
    """The engine needs an image `debian:bookworm-slim` that has python3."""
    address = os.environ["R2V_TEST_ENGINE"]
    write(tmp_path / "fetch", COMPOSED)
    api = client(address)
    before = _labelled(api)
    terminal = json.dumps({"backend": "docker", "engine": address, "command_s": 20.0})
    env = TerminalBenchEnv(str(tmp_path / "fetch"), expert=True, terminal=terminal)
    for solves in (True, False):
        env.reset()
        if solves:
            action = env.expert_action()
            assert action is not None
            assert "[exit 0" in said(env, action)
        assert env.step("submit")[1] == float(solves)
    env.close()
    assert _labelled(api) <= before


def _labelled(api: Any) -> set[str]:
    """Containers and networks of terminals."""
    ours = {"label": "r2v"}
    found = [*api.containers(all=True, filters=ours), *api.networks(filters=ours)]
    return {one["Id"] for one in found}
