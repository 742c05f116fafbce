"""What is read of an answer, of a terminal, and of task folders: pure text, nothing is run."""

import asyncio
from pathlib import Path

import pytest

from envs.terminal_bench.actions import keys, parse_action
from envs.terminal_bench.dockerfile import Put, Run, read_dockerfile
from envs.terminal_bench.listing import fit_of, task_folders
from envs.terminal_bench.machine import Came, File, Shown
from envs.terminal_bench.observation import observation_of, text_of
from envs.terminal_bench.own.catalogue import FAMILIES, families_of, folder_of, task_name
from envs.terminal_bench.places import task_for
from envs.terminal_bench.reading import read_task
from envs.terminal_bench.rules import TerminalRules
from r2v_dist.chat import Turn
from r2v_dist.config.env import SPLITS
from r2v_dist.config.terminal import TerminalConfig
from r2v_dist.errors import UsageError
from r2v_dist.language_model import Candidate


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        ("ls -l", "command", "ls -l"),
        ("I look around:\n```bash\nls -l\ncat x\n```\nThen I go on.", "command", "ls -l\ncat x"),
        ("```\nls\n```\n```\npwd\n```", "command", "ls"),
        ("~~~sh\nls", "command", "ls"),
        ("$ ls", "command", "ls"),
        ("cat <<'END'\n$ x\n\nEND", "command", "cat <<'END'\n$ x\n\nEND"),
        (" SUBMIT\n", "submit", ""),
        ("```\nsubmit\n```", "submit", ""),
        ("submit the form", "command", "submit the form"),
        ("  \n", "nothing", ""),
        ("keys C-c", "keys", "keys C-c"),
    ],
)
def test_answers_are_read_as_models_write_them(answer: str, kind: str, text: str) -> None:
    action = parse_action(answer)
    assert (action.kind, action.text) == (kind, text)


def test_keys_have_tmuxs_names() -> None:
    assert keys("i hello Escape :wq Enter") == b"ihello\x1b:wq\r"
    assert keys('C-c C-[ M-x Up \'two words\' "a \\" b"') == b'\x03\x1b\x1bx\x1b[Atwo wordsa " b'
    with pytest.raises(UsageError, match="there is no key 'C-Nothing'"):
        keys("C-Nothing")


def test_a_terminals_text_is_plain_and_keeps_both_ends() -> None:
    raw = b"\x1b[31mred\x1b[0m\r\n10%\r50%\r100%\r\nab\x08c\x1b]0;title\x07\r\n\xff\x00"
    assert text_of(raw, 2000) == "red\n100%\nac\n\ufffd\ufffd"
    long = text_of(b"a" * 600 + b"\n" + b"b" * 600, 400)
    assert long.startswith("a" * 160)
    assert long.endswith("b" * 240)
    assert "801 characters left out" in long
    assert len(text_of(b"x" * 10**6, 2000)) < 2100


def test_an_observation_says_how_the_command_ended() -> None:
    shown = Shown(b"hello\n", Came.ENDED, 3, "/app", 2)
    assert observation_of(shown, 2000, 20.0) == "hello\n[exit 3; /app; 2 files changed]"
    waits = Shown(b"", Came.WAITS, None, "/", 0)
    assert observation_of(waits, 2000, 20.0) == "[a program waits for input; /]"


DOCKERFILE = """
# a comment
FROM python:3.12-slim
ENV MODE=fast PLACE="/srv/x"
RUN apt-get update && apt-get install -y --no-install-recommends git=1:2.0 \\
    # inside
    sqlite3 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "numpy==2.0" pandas && mkdir -p /data
WORKDIR $PLACE
COPY one.txt renamed.txt
COPY --chmod=755 inner /opt/inner/
COPY . ./all/
RUN <<'END'
echo hello; echo there
END
CMD ["bash"]
"""


def test_a_dockerfile_becomes_steps() -> None:
    context = {"one.txt": File(b"1"), "inner/two.sh": File(b"2")}
    build = read_dockerfile(DOCKERFILE, context)
    assert build.problems == ()
    assert build.packages == ("git", "sqlite3")
    assert build.python_packages == ("numpy", "pandas")
    assert build.folder == "/srv/x"
    assert dict(build.environment) == {"MODE": "fast", "PLACE": "/srv/x"}
    puts = [step.files for step in build.steps if isinstance(step, Put)]
    assert list(puts[0]) == ["/srv/x/renamed.txt"]
    assert puts[1]["/opt/inner/two.sh"].mode == 0o755
    assert sorted(puts[2]) == ["/srv/x/all/inner/two.sh", "/srv/x/all/one.txt"]
    runs = [step for step in build.steps if isinstance(step, Run)]
    assert runs[0].script == "mkdir -p /data"
    assert runs[-1] == Run("echo hello; echo there", "/srv/x")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("FROM nvidia/cuda:12", "its image nvidia/cuda:12 is no plain Debian, Ubuntu or Python"),
        (
            "FROM debian:12\nRUN curl -O http://x/y",
            "its Dockerfile fetches something from the network",
        ),
        ("FROM debian:12\nCOPY gone /x", "gone, which its Dockerfile copies, is not there"),
        ("FROM debian:12\nCOPY --from=build /a /b", "its Dockerfile copies from another image"),
        ("FROM debian:12\nUSER agent", "its Dockerfile has USER agent"),
    ],
)
def test_what_only_docker_can_do_is_named(line: str, problem: str) -> None:
    assert read_dockerfile(line, {}).problems == (problem,)


def write(folder: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


V1 = {
    "task.yaml": "instruction: Do it.\ndifficulty: easy\nmax_test_timeout_sec: 9\n",
    "Dockerfile": "FROM ghcr.io/laude-institute/t-bench/ubuntu-24-04:latest\nWORKDIR /app\n",
    "docker-compose.yaml": "services:\n  client:\n    build: .\n",
    "solution.sh": "#!/bin/bash\necho 1 > one\n",
    "run-tests.sh": "test -e /app/one\n",
    "tests/test_outputs.py": "def test(): ...\n",
}


def test_the_first_layout_is_read_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "do-it", V1)
    assert task_folders(tmp_path) == [folder]
    task = task_for(str(folder))
    assert (task.name, task.instruction, task.test_s) == ("do-it", "Do it.", 9.0)
    assert sorted(task.tests) == ["/tests/run-tests.sh", "/tests/test_outputs.py"]
    assert task.test_script == "bash /tests/run-tests.sh"
    assert task.oracle == ("bash /solution/solve.sh",)
    assert fit_of(folder, TerminalConfig()).sandbox == ()


def test_the_list_says_why_a_task_cannot_run(tmp_path: Path) -> None:
    write(tmp_path / "bare", {"task.yaml": V1["task.yaml"]})
    write(tmp_path / "torn", {"task.toml": "a = ["})
    several = "services: {client: {}, database: {}}\n"
    write(tmp_path / "two", V1 | {"docker-compose.yaml": several})
    odd = V1 | {"Dockerfile": "FROM debian:12\nRUN apt-get install -y no-such-package-r2v\n"}
    write(tmp_path / "odd", odd)
    said = {
        fit.task: fit.sandbox
        for fit in (fit_of(one, TerminalConfig()) for one in task_folders(tmp_path))
    }
    assert said["bare"][0] == "Dockerfile is missing"
    assert said["torn"][0].startswith("task torn: task.toml cannot be read")
    assert said["two"] == (
        "docker-compose.yaml: it has several containers, which only env.terminal.backend = docker "
        "starts",
    )
    assert said["odd"][0].startswith("not in /usr: no-such-package-r2v; `make terminal-root`")


def test_every_family_makes_tasks_of_the_second_layout() -> None:
    assert len(FAMILIES) >= 40
    for family in FAMILIES.values():
        name = task_name(family, 3)
        folder = folder_of(name)
        assert folder == family.folder(3)
        assert folder["instruction.md"] != family.folder(4)["instruction.md"] or (
            folder != family.folder(4)
        )
        task = read_task(name, folder)
        assert task.problems == ()
        assert task.build.problems == ()
        assert 3 <= len(task.oracle) <= 25
        assert task.wrong
        assert len(task.instruction) < 900


def test_no_family_is_in_two_splits() -> None:
    families = [family.name for split in SPLITS for family in families_of(split)]
    assert sorted(families) == sorted(FAMILIES)
    assert all(len(families_of(split)) >= 8 for split in SPLITS)


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UsageError, match="terminal task nothing@3: there is no such task"):
        folder_of("nothing@3")


def scores(history: list[tuple[str, str]], user: str, *actions: str) -> tuple[float, ...]:
    turns = [Turn(seen, action, "slm", None) for seen, action in history]
    candidates = [Candidate(action) for action in actions]
    return asyncio.run(TerminalRules().score(turns, user, candidates))


def test_rules_doubt_what_will_not_help() -> None:
    seen = [("Sort /app/data.txt.", "sort /app/dat.txt")]
    failed = "sort: cannot read: /app/dat.txt: No such file or directory\n[exit 2; /app]"
    again, other, unseen, early, nothing = scores(
        seen, failed, "sort /app/dat.txt", "ls /app/data.txt", "cat /etc/elsewhere", "submit", ""
    )
    assert other == 1.0
    assert again < unseen < other
    assert early < other
    assert nothing < unseen
    done = "[exit 0; /app; 1 file changed]"
    assert scores([*seen, (failed, "sort /app/data.txt > x")], done, "submit") == (1.0,)
    lost = "Error: the command failed and was not executed."
    assert scores(seen, lost, "sort /app/dat.txt") == (1.0,)
