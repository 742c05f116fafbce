"""Any agent program as an environment: the example plays a game as the game itself is played, and
programs that hang, crash or ask twice are rows and no crashes.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gymnasium.utils.env_checker import check_env

from envs.make import make, perturbed
from envs.program.env import ProgramEnv
from envs.program.rendezvous import Rendezvous
from envs.program.tasks import make_tasks
from envs.spec import TaskRequest
from r2v_dist.agent.episode import Cast, Player, play
from r2v_dist.agent.tree import Tree, TreeEnv
from r2v_dist.config.env import EnvConfig, SplitSizes
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.config.program import ProgramConfig
from r2v_dist.episodes import Arm, Branch, Episode, StopReason, Taken, Task, Unit
from r2v_dist.errors import UsageError
from r2v_dist.language_model import Answer, Candidate, Request, Sampling
from r2v_dist.messages import Messages
from r2v_dist.router.registry import RouterModels
from r2v_dist.seeding import rng_for, stable_hash
from r2v_dist.serving.errors import ApiError
from tests.gateway_rig import ScriptedSlm, ScriptedVerifier
from tests.integration.serving.test_equality import MODEL
from tests.runs import ROOT
from tests.sandboxes import require_bubblewrap

AGENT = ROOT / "examples" / "agent_program" / "agent.py"
CLIENT = """
import json, os, sys, urllib.request
M = []
def ask(text, **more):
    M.append(text if isinstance(text, dict) else {"role": "user", "content": text})
    told = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    body = json.dumps({"model": "any", "messages": M} | more).encode()
    where = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    answer = urllib.request.urlopen(urllib.request.Request(where, body, told))
    M.append(json.load(answer)["choices"][0]["message"])
    return M[-1]
"""
"""A program without a library: it starts in a moment."""


def proposals(request: Request) -> tuple[Candidate, ...]:
    words = ("look", "inventory", "wait", "go north", "take all")
    history = [(str(turn.user), turn.action) for turn in request.history]
    rng = rng_for(history, str(request.user), request.seed)
    texts = rng.sample(words, 3)
    return tuple(Candidate(t, tuple(t.encode()), (-rng.random(),) * 3) for t in texts)


class Teacher:
    async def sample(self, request: Request) -> Answer:
        return Answer((Candidate(("examine me", "look")[request.seed % 2]),), "teacher")


CAST = Cast(
    Player("slm", ScriptedSlm(propose=proposals), Sampling(n=3)),
    Player("teacher", Teacher(), Sampling()),
    ScriptedVerifier(),
    RouterModels({("r2v", 0): MODEL}),
)
ARM = Arm("r2v", 0.7, "slm-1", "teacher", 0)


def played(task: Task, z: int | None, *runs: Arm | Branch) -> list[Episode]:
    env = make(task, False)

    async def all_runs() -> list[Episode]:
        world = TreeEnv(
            perturbed(env, task, z, PerturbConfig(rates=dict.fromkeys(OWN_WORDS, 0.0))), Tree()
        )
        unit = Unit("evaluate", "hash", Task("same", "test", "none", ()), z, 0, ())
        return [await play(world, unit, run, CAST) for run in runs or (ARM,)]

    try:
        return asyncio.run(all_runs())
    finally:
        env.close()


def program(*command: str, **given: Any) -> Task:
    arguments = {"command": json.dumps(command), "max_steps": 8, "step_s": 20.0} | given
    return Task("same", "test", "r2v/Program-v0", tuple(arguments.items()))


OWN_WORDS = (
    "semantic_distractor",
    "misleading_error",
    "misleading_instruction",
    "wrong_fix",
    "decoy_error",
)
"""Operators that speak in the words of one environment."""


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
    path = (Taken("slm", "look"), Taken("slm", "inventory"))
    seen = stable_hash("step 2")
    first = Taken("slm", "wait")
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


def gone(path: Path) -> bool:
    """Within a deadline."""
    deadline = time.monotonic() + 20
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not path.exists()


def runs(name: str) -> bool:
    """Whether a process has this name among its arguments."""
    found = subprocess.run(["pgrep", "-f", name], capture_output=True, check=False)
    return found.returncode == 0


def test_all_that_a_program_started_ends_with_the_episode() -> None:
    code = f"""{CLIENT}
import subprocess
subprocess.Popen(["setsid", "sleep", "98765.4321"], start_new_session=True)
os.makedirs("deep/er")
os.symlink("/", "deep/root")
os.chmod("deep", 0)
ask(os.getcwd())
"""
    env = ProgramEnv(json.dumps([sys.executable, "-c", code]))
    folder, _ = env.reset()
    assert Path(folder).is_dir()
    while not runs("sleep 98765.4321"):
        time.sleep(0.05)
    env.close()
    assert not runs("sleep 98765.4321")
    assert not Path(folder).parent.exists()


def test_a_program_ends_with_the_process_that_plays_it() -> None:
    code = f"""{CLIENT}
import subprocess
subprocess.Popen(["sleep", "98765.1234"], start_new_session=True)
ask(os.getcwd())
"""
    player = f"""
import json, sys, time
from envs.program.env import ProgramEnv
env = ProgramEnv(json.dumps([sys.executable, "-c", {code!r}]))
print(env.reset()[0], flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", player], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        folder = Path(one.stdout.readline().strip())
        assert folder.is_dir()
        one.kill()
    assert gone(folder)
    assert not runs("sleep 98765.1234")


def test_a_sandbox_shows_a_program_nothing_but_its_own(tmp_path: Path) -> None:
    require_bubblewrap()
    secret, given = tmp_path / "secret", tmp_path / "given"
    secret.write_text("secret")
    given.mkdir()
    (given / "data").write_text("data")
    with socket.create_server(("127.0.0.1", 0)) as host:
        code = f"""{CLIENT}
import socket
def tried(act):
    try:
        return str(act())
    except OSError as error:
        return type(error).__name__
open("own", "w").write("1")
ask(json.dumps([
    tried(lambda: open({str(secret)!r}).read()),
    tried(lambda: open({str(given / "data")!r}).read()),
    tried(lambda: open({str(given / "new")!r}, "w")),
    tried(lambda: socket.create_connection(("127.0.0.1", {host.getsockname()[1]}), 2)),
    tried(lambda: open("/proc/1/root/etc/shadow").read()),
    tried(lambda: os.unshare(os.CLONE_NEWUSER) if hasattr(os, "unshare") else open("/none")),
    os.environ["HOME"] == os.getcwd(),
]))
ask("more")
"""
        check = json.dumps([sys.executable, "-c", "raise SystemExit(open('own').read() != '1')"])
        task = program(
            sys.executable, "-c", code, check=check, sandbox=True, shown=json.dumps([str(given)])
        )
        [episode] = played(task, None)
    assert json.loads(episode.steps[0].observation) == [
        "FileNotFoundError",
        "data",
        "OSError",
        "ConnectionRefusedError",
        "FileNotFoundError",
        "FileNotFoundError",
        True,
    ]
    assert episode.stop_reason is StopReason.WON


@pytest.mark.parametrize("sandbox", [True, False])
def test_what_a_program_puts_in_the_place_of_its_output_is_not_read(
    tmp_path: Path, sandbox: bool
) -> None:
    require_bubblewrap()
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    code = f"""
import os
print("before" + 400_000 * "x" + " after", flush=True)
for place in ("output.txt", "../output.txt"):
    try:
        os.unlink(place)
    except OSError:
        pass
    try:
        os.symlink({str(secret)!r}, place)
    except OSError:
        pass
raise SystemExit(1)
"""
    env = ProgramEnv(json.dumps([sys.executable, "-c", code]), sandbox=sandbox)
    with pytest.raises(RuntimeError, match=r"xxx after$"):
        env.reset()
    env.close()


def test_a_program_cannot_outlive_its_keeper() -> None:
    code = f"""{CLIENT}
import signal
ask(f"{{os.getcwd()}} {{os.getpid()}}")
os.kill(os.getppid(), signal.SIGKILL)
ask("alive")
import time; time.sleep(600)
"""
    env = ProgramEnv(json.dumps([sys.executable, "-c", code]))
    told, _ = env.reset()
    folder, pid = told.split()
    env.step("go on")
    with pytest.raises(RuntimeError, match="ended its keeper"):
        env.step("go on")
    env.close()
    assert gone(Path("/proc") / pid)
    assert gone(Path(folder).parent)


def test_what_a_check_started_ends_with_it() -> None:
    started = "import subprocess as s; s.Popen(['sleep', '98765.7777'], start_new_session=True)"
    check = json.dumps([sys.executable, "-c", started])
    [episode] = played(program(sys.executable, "-c", f"{CLIENT}\nask('x')", check=check), None)
    assert episode.success
    assert not runs("sleep 98765.7777")


def test_a_tree_that_is_deeper_than_a_path_is_removed() -> None:
    code = f"""{CLIENT}
home = os.getcwd()
for _ in range(60):
    os.mkdir(200 * "d")
    os.chdir(200 * "d")
ask(home)
"""
    env = ProgramEnv(json.dumps([sys.executable, "-c", code]))
    folder, _ = env.reset()
    env.close()
    assert not Path(folder).parent.exists()


@pytest.mark.parametrize("sandbox", [True, False])
def test_many_connections_are_answered_and_one_that_said_all_is_too(sandbox: bool) -> None:
    require_bubblewrap()
    code = f"""{CLIENT}
import socket, threading, urllib.parse
where = urllib.parse.urlparse(os.environ["OPENAI_BASE_URL"])
def models(_=None):
    with socket.create_connection((where.hostname, where.port), 20) as one:
        one.sendall(b"GET /v1/models HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        one.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: one.recv(4096), b""))
    answers.append(said.startswith(b"HTTP/1.1 200"))
answers = []
threads = [threading.Thread(target=models) for _ in range(60)]
[t.start() for t in threads]; [t.join() for t in threads]
ask(f"{{sum(answers)}} of {{len(answers)}}")
"""
    env = ProgramEnv(json.dumps([sys.executable, "-c", code]), sandbox=sandbox)
    assert env.reset()[0] == "60 of 60"
    env.close()


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


def test_sandboxed_tasks_show_the_folder_of_their_list(tmp_path: Path) -> None:
    require_bubblewrap()
    path = tmp_path / "tasks.jsonl"
    rows = [{"id": name, "command": [sys.executable, "{folder}/agent.py"]} for name in "ab"]
    path.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "agent.py").write_text(f"{CLIENT}\nask('hello')")
    settings = ProgramConfig(tasks=path, sandbox=True)
    sizes = SplitSizes(train=1, validation=0, test=1)
    config = EnvConfig(kind="program", program=settings, splits=sizes)
    [episode] = played(make_tasks(TaskRequest(config, 0))[0], None)
    assert episode.stop_reason is StopReason.WON
    missing = ProgramConfig(tasks=path, sandbox=True, shown=(tmp_path / "none",))
    with pytest.raises(UsageError, match=r"env\.program\.shown = .*none: there is no such"):
        make_tasks(TaskRequest(config.model_copy(update={"program": missing}), 0))
