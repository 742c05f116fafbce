"""A family of tasks: one problem, whose names, paths, sizes and contents are drawn from a seed.

Invariant: equal names make equal folders, in the v2 layout, on every machine.
"""

import json
import random
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from envs.terminal_bench.machine import File
from r2v_dist.config.env import Split
from r2v_dist.seeding import rng_for

BASE_IMAGE = "debian:bookworm-slim"
_ALWAYS = ("python3",)
_PRELUDE = """import json, os, re, subprocess, sys


def fail(why):
    print(why)
    sys.exit(1)


def text(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except OSError as error:
        fail(f"{path}: {error.strerror}")


def same(path, wanted):
    if text(path).rstrip("\\n") != wanted.rstrip("\\n"):
        fail(f"{path} has not what it should have")


def demand(condition, why):
    if not condition:
        fail(why)


def output(*argv, wait=10, **options):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=wait, **options)
    return done.returncode, done.stdout


"""
_GIT_CONFIG = r"[user]\n\tname = root\n\temail = root@localhost\n[init]\n\tdefaultBranch = main\n"
"""Whose commits they are: git asks for it in an image, which has no such file."""
_TEST = """#!/bin/bash
if python3 -I -S -B /tests/check.py; then
  echo 1 > /logs/verifier/reward.txt
else
  echo 0 > /logs/verifier/reward.txt
  exit 1
fi
"""


@dataclass(frozen=True)
class Made:
    """One task of a family.

    `files` lie below /app, and `setup` is a bash script that runs there when the machine is
    prepared. `oracle` solves the task; `wrong` looks like a solution and must fail. `check` is a
    Python program that ends without an error where the task is solved; `text`, `same`, `demand`,
    `fail` and `output` are known to it.
    """

    instruction: str
    oracle: tuple[str, ...]
    wrong: tuple[str, ...]
    check: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    executable: tuple[str, ...] = ()
    setup: str = ""
    service: bool = False
    """Whether programs that the agent started have to run on when it is judged."""


@dataclass(frozen=True)
class Family:
    """How tasks of one kind are made. All of them are in one `split`, so that no near-copy of a
    task crosses from training to test. `packages` are Debian's, beside bash, coreutils, findutils,
    grep, sed, mawk, tar, gzip and python3.
    """

    name: str
    category: str
    difficulty: str
    split: Split
    make: Callable[[random.Random], Made]
    packages: tuple[str, ...] = ()

    def folder(self, seed: int) -> dict[str, File]:
        """The folder of one task, in the v2 layout."""
        task = self.make(rng_for("terminal-task", self.name, seed))
        files = {
            "task.toml": self._described(task),
            "instruction.md": task.instruction.strip() + "\n",
            "environment/Dockerfile": self._dockerfile(task),
            "solution/solve.sh": _script(task.oracle),
            "solution/wrong.sh": _script(task.wrong),
            "tests/test.sh": _TEST,
            "tests/check.py": _PRELUDE + task.check.strip() + "\n",
        }
        folder = {path: File(text.encode()) for path, text in files.items()}
        if task.setup:
            folder["environment/setup.sh"] = File(task.setup.strip().encode() + b"\n")
        for path, content in task.files.items():
            raw = content.encode() if isinstance(content, str) else content
            mode = 0o755 if path in task.executable else 0o644
            folder[f"environment/app/{path}"] = File(raw, mode)
        return folder

    def _described(self, task: Made) -> str:
        keeps = str(task.service).lower()
        return (
            f'version = "1.0"\n\n[metadata]\nauthor_name = "r2v"\n'
            f"difficulty = {json.dumps(self.difficulty)}\ncategory = {json.dumps(self.category)}\n"
            f"tags = [{json.dumps(self.name)}]\nr2v_commands = true\nr2v_exit_code = true\n"
            f"r2v_keeps_processes = {keeps}\n\n[verifier]\ntimeout_sec = 30.0\n\n"
            f"[agent]\ntimeout_sec = 300.0\n\n[environment]\nbuild_timeout_sec = 300.0\n"
        )

    def _dockerfile(self, task: Made) -> str:
        packages = " ".join(shlex.quote(package) for package in (*_ALWAYS, *self.packages))
        lines = [
            f"FROM {BASE_IMAGE}",
            f"RUN apt-get update && apt-get install -y --no-install-recommends {packages}",
            "WORKDIR /app",
        ]
        if "git" in self.packages:
            lines.append(f"RUN printf {shlex.quote(_GIT_CONFIG)} > /root/.gitconfig")
        if task.files:
            lines.append("COPY app/ /app/")
        if task.setup:
            lines += [
                "COPY setup.sh /tmp/setup.sh",
                "RUN bash -e /tmp/setup.sh && rm /tmp/setup.sh",
            ]
        return "\n".join(lines) + "\n"


def _script(commands: tuple[str, ...]) -> str:
    for command in commands:
        assert "\n\n" not in command.strip("\n"), "an empty line divides commands"
    return "#!/bin/bash\n" + "\n\n".join(command.strip("\n") for command in commands) + "\n"
