"""What an agent program can reach, in a sandbox and without one, and that nothing that it started
outlives its episode.
"""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from envs.program.env import ProgramEnv
from envs.program.tasks import make_tasks
from envs.spec import TaskRequest
from r2v_dist.config.env import EnvConfig, SplitSizes
from r2v_dist.config.program import ProgramConfig
from r2v_dist.episodes import StopReason
from r2v_dist.errors import UsageError
from tests.agent_programs import CLIENT, played, program
from tests.sandboxes import require_bubblewrap


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


def test_a_program_cannot_outlive_its_supervisor() -> None:
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
    with pytest.raises(RuntimeError, match="ended its supervisor"):
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
