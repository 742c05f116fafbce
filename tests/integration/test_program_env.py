"""Any agent program as an environment: the example plays a game as the game itself is played, and
programs that hang, crash or ask twice are rows and no crashes.
"""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from gymnasium.utils.env_checker import check_env

from envs.program.env import ProgramEnv
from envs.program.rendezvous import Rendezvous
from envs.program.tasks import make_tasks
from envs.spec import TaskRequest
from r2v_dist.config.env import EnvConfig, SplitSizes
from r2v_dist.config.program import ProgramConfig
from r2v_dist.episodes import Branch, StopReason, TakenAction, Task
from r2v_dist.errors import UsageError
from r2v_dist.messages import Messages
from r2v_dist.seeding import stable_hash
from r2v_dist.serving.errors import ApiError
from tests.agent_programs import ARM, CLIENT, played, program
from tests.runs import ROOT

AGENT = ROOT / "examples" / "agent_program" / "agent.py"


def test_the_example_is_played_as_its_game_is(
    games: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    passing = json.dumps(["PYTHONPATH"])
    game = Task("same", "test", "r2v/TextWorld-v0", (("game", str(games[0])), ("max_steps", 8)))
    agent = program(sys.executable, str(AGENT), str(games[0]), "8", pass_environment=passing)
    [inside] = played(game, 3)
    [outside] = played(agent, 3)
    assert outside.steps == inside.steps
    assert len(inside.steps) > 3
    assert {step.actor for step in inside.steps} == {"slm", "teacher"}
    assert inside.goal == outside.goal


def test_a_branch_replays_the_program() -> None:
    agent = program(sys.executable, "-c", f"{CLIENT}\n[ask(f'step {{n}}') for n in range(5)]")
    path = (TakenAction("slm", "look"), TakenAction("slm", "inventory"))
    seen = stable_hash("step 2")
    first = TakenAction("slm", "wait")
    [episode] = played(agent, None, Branch("S", ARM, 1, path, seen, first=first))
    assert [step.action for step in episode.steps[:3]] == ["look", "inventory", "wait"]
    assert not any(step.drift for step in episode.steps)
    [drifted] = played(agent, None, Branch("S", ARM, 1, path, seen + 1, first=first))
    assert drifted.steps[2].drift  # it was made for another observation


@pytest.mark.parametrize(
    ("code", "limits", "reason", "said"),
    [
        ("ask('hello'); sys.exit(0)", {}, StopReason.WON, ""),
        ("ask('hello'); sys.exit(3)", {}, StopReason.LOST, ""),
        ("ask('hello'); import time; time.sleep(60)", {"step_s": 0.5}, StopReason.ENV_ERROR,
         "env.program.step_s"),
        ("ask('hello'); M.append({'role': 'wizard'}); ask('x')", {}, StopReason.ENV_ERROR, "role"),
        ("ask('hello'); M.clear(); ask('x')", {}, StopReason.ENV_ERROR, "another conversation"),
    ],
)  # fmt: skip
def test_ends_of_programs_are_rows(
    code: str, limits: dict[str, float], reason: StopReason, said: str
) -> None:
    [episode] = played(program(sys.executable, "-c", f"{CLIENT}\n{code}", **limits), None)
    assert episode.stop_reason is reason
    assert said in episode.detail
    assert episode.success == (reason is StopReason.WON)
    assert episode.goal == "hello"


def test_a_second_request_at_the_same_time_is_refused() -> None:
    rendezvous = Rendezvous()
    token = rendezvous.begin()
    body = json.dumps({"model": "r2v", "messages": [{"role": "user", "content": "x"}]}).encode()
    try:
        rendezvous.ask(body, token)
        with pytest.raises(ApiError) as second:
            rendezvous.ask(body, token)
        assert second.value.status == 409
        with pytest.raises(RuntimeError, match="twice"):
            rendezvous.wait(0)
        rendezvous.begin()
        with pytest.raises(ApiError) as stale:
            rendezvous.ask(body, token)
        assert stale.value.status == 401
    finally:
        rendezvous.close()


def test_a_program_that_never_asks_cannot_be_reset() -> None:
    env = ProgramEnv(json.dumps([sys.executable, "-c", "print('broken'); raise SystemExit(1)"]))
    with pytest.raises(RuntimeError, match="broken"):
        env.reset()
    env.close()


def test_a_check_decides_where_there_is_one() -> None:
    code = f"{CLIENT}\nopen('done', 'w').write(ask('hello')['content']); sys.exit(9)"
    check = json.dumps([sys.executable, "-c", "raise SystemExit(not open('done').read())"])
    [episode] = played(program(sys.executable, "-c", code, check=check), None)
    assert episode.success


def test_tools_and_system_messages_are_heard_as_they_are() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    code = f"""{CLIENT}
M.append({{'role': 'system', 'content': 'be brief'}})
call = ask('hello', tools=[{tool}])['tool_calls'][0]
arguments = call['function']['arguments']
ask({{'role': 'tool', 'tool_call_id': call['id'], 'content': arguments}}, tools=[{tool}])
"""
    env = ProgramEnv(json.dumps([sys.executable, "-c", code]))
    try:
        observation, info = env.reset()
        assert observation == "hello"
        assert isinstance(info["heard"], Messages)
        assert json.loads(info["heard"].tools[0]) == tool
        seen, *_, info = env.step(
            'I look.\n<tool_call>{"arguments": {"at": 1}, "name": "look"}</tool_call>'
        )
        assert seen == '{"at": 1}'
        assert info["heard"].messages[0].call.name == "look"
        *_, terminated, _, info = env.step("done")
        assert (terminated, info["stop_reason"]) == (True, "won")
    finally:
        env.close()


def test_it_is_an_environment_of_gymnasium() -> None:
    code = f"{CLIENT}\n[ask('hello') for _ in range(3)]"
    env = ProgramEnv(json.dumps([sys.executable, "-c", code]))
    try:
        check_env(env, skip_render_check=True)
    finally:
        env.close()


def test_tasks_are_read_dealt_and_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    rows: list[Any] = [{"id": f"t{n}", "command": ["run", "{folder}/x"]} for n in range(4)]
    rows.append({"id": "held", "command": ["run"], "split": "test"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = EnvConfig(
        kind="program",
        program=ProgramConfig(tasks=path),
        splits=SplitSizes(train=2, validation=2, test=1),
    )
    tasks = make_tasks(TaskRequest(config, 0))
    assert [task.split for task in tasks] == ["train"] * 2 + ["validation"] * 2 + ["test"]
    assert tasks[-1].id == "held"
    assert json.loads(str(dict(tasks[0].env_kwargs)["command"])) == ["run", f"{tmp_path}/x"]
    path.write_text(json.dumps({"id": "a", "command": "run x"}))
    with pytest.raises(UsageError, match=r"tasks.jsonl:1: command must be a list"):
        make_tasks(TaskRequest(config, 0))


@pytest.mark.parametrize("length", ["-1", "1e3", str(2**40)])
def test_a_body_without_a_sensible_length_is_not_read(length: str) -> None:
    rendezvous = Rendezvous()
    token = rendezvous.begin()
    try:
        for key, status in ((token, b"413"), ("other", b"401")):
            with socket.create_connection(("127.0.0.1", rendezvous.port), 10) as one:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer {key}\r\n"
                one.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
                assert one.recv(100).split()[1] == status
    finally:
        rendezvous.close()
