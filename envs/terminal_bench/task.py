"""A task folder of either layout, read and understood: v1 (`task.yaml`) and v2, Harbor's
(`task.toml`). Nothing of it is run here, and no file is changed.
"""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from envs.terminal_bench.dockerfile import Build, read_dockerfile
from envs.terminal_bench.machine import File
from r2v_dist.errors import UsageError

_MOST_BYTES = 64 << 20
_MOST_FILES = 5000
_FETCHES = re.compile(r"\b(?:curl|wget|uv|uvx|apt-get|apt|pip\d?)\s")
_TESTS = "/tests"
_KEPT_OUT = ("task.yaml", "docker-compose.yaml", "solution", "run-tests.sh", "tests/")


@dataclass(frozen=True)
class TerminalTask:
    """A task. `tests` are files by absolute path, `test_script` the bash that runs them and whose
    exit code (and `reward_file`, where there is one) is the verdict. `oracle` and `wrong` are lists
    of commands, empty where unknown.
    """

    name: str
    instruction: str
    build: Build
    tests: Mapping[str, File]
    test_script: str
    reward_file: str = ""
    needs_exit_0: bool = True
    oracle: tuple[str, ...] = ()
    oracle_files: Mapping[str, File] | None = None
    wrong: tuple[str, ...] = ()
    keeps_processes: bool = True
    test_s: float = 60.0
    difficulty: str = ""
    category: str = ""
    compose: bool = False
    image: str = ""
    """The image to pull, where the task names one; else it is built of `context`."""
    context: Mapping[str, File] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Why nobody can play it: parts of the folder that are missing."""


def read_folder(folder: Path) -> dict[str, File]:
    """Every plain file below a folder, by relative path. Raises UsageError where there are too many
    bytes to be a task's.
    """
    found: dict[str, File] = {}
    total = 0
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(place, name)
            info = path.lstat()
            if not stat.S_ISREG(info.st_mode):
                continue
            total += info.st_size
            if total > _MOST_BYTES or len(found) >= _MOST_FILES:
                raise UsageError(
                    f"task folder {folder}: more than {_MOST_BYTES >> 20} MiB or {_MOST_FILES} "
                    f"files; a task's folder is smaller"
                )
            found[str(path.relative_to(folder))] = File(path.read_bytes(), info.st_mode & 0o777)
    return found


def is_task(folder: Path) -> bool:
    """Whether a folder is a task's."""
    return (folder / "task.toml").is_file() or (folder / "task.yaml").is_file()


def read_task(name: str, files: Mapping[str, File]) -> TerminalTask:
    """The task of a folder's files. Raises UsageError where they are no task's."""
    if "task.toml" in files:
        return _read_v2(name, files)
    if "task.yaml" in files:
        return _read_v1(name, files)
    raise UsageError(f"task {name}: neither task.toml nor task.yaml is there; name a task's folder")


def _read_v2(name: str, files: Mapping[str, File]) -> TerminalTask:
    described = _parsed(name, "task.toml", tomllib.loads, files["task.toml"])
    metadata = described.get("metadata", {})
    environment = described.get("environment", {})
    context = _below(files, "environment/")
    problems = [
        f"{missing} is missing"
        for missing in ("instruction.md", "environment/Dockerfile", "tests/test.sh")
        if missing not in files
        and not (missing.endswith("Dockerfile") and environment.get("docker_image"))
    ]
    build = _build(context)
    if environment.get("docker_image") and "Dockerfile" not in context:
        build = Build(problems=(f"it is made of the image {environment['docker_image']}",))
    return TerminalTask(
        name=name,
        instruction=_text(files, "instruction.md").strip(),
        build=build,
        tests=_at(_TESTS, _below(files, "tests/")),
        test_script="bash /tests/test.sh",
        reward_file="/logs/verifier/reward.txt",
        needs_exit_0=bool(metadata.get("r2v_exit_code", False)),
        oracle=commands_of(_text(files, "solution/solve.sh"), bool(metadata.get("r2v_commands"))),
        oracle_files=None
        if metadata.get("r2v_commands")
        else _at("/solution", _below(files, "solution/")),
        wrong=commands_of(_text(files, "solution/wrong.sh"), True),
        keeps_processes=bool(metadata.get("r2v_keeps_processes", True)),
        test_s=float(described.get("verifier", {}).get("timeout_sec", 60.0)),
        difficulty=str(metadata.get("difficulty", "")),
        category=str(metadata.get("category", "")),
        compose="docker-compose.yaml" in context,
        image=str(environment.get("docker_image", "")),
        context=context,
        problems=tuple(problems),
    )


def _read_v1(name: str, files: Mapping[str, File]) -> TerminalTask:
    described = _parsed(name, "task.yaml", yaml.safe_load, files["task.yaml"])
    needed = ("Dockerfile", "run-tests.sh", "tests/test_outputs.py")
    problems = [f"{missing} is missing" for missing in needed if missing not in files]
    # An agent sees none of these, whatever a Dockerfile copies.
    context = {path: file for path, file in files.items() if not path.startswith(_KEPT_OUT)}
    tests = _at(_TESTS, _below(files, "tests/"))
    script = _text(files, "run-tests.sh")
    if "run-tests.sh" in files:
        tests["/tests/run-tests.sh"] = files["run-tests.sh"]
    offline = "python3 -m pytest /tests/test_outputs.py -rA -p no:cacheprovider"
    return TerminalTask(
        name=name,
        instruction=_instruction_v1(described),
        build=_build(context),
        tests=tests,
        # What installs pytest over the network only to call it is left out.
        test_script=offline if _FETCHES.search(script) else "bash /tests/run-tests.sh",
        oracle=commands_of(_text(files, "solution.sh"), False),
        oracle_files=_at(
            "/solution", {"solve.sh": files["solution.sh"]} if "solution.sh" in files else {}
        ),
        test_s=float(described.get("max_test_timeout_sec", 60.0)),
        difficulty=str(described.get("difficulty", "")),
        category=str(described.get("category", "")),
        compose=_several_services(files),
        context=context,
        problems=tuple(problems),
    )


def commands_of(script: str, apart: bool) -> tuple[str, ...]:
    """The commands of an oracle's script: with `apart` its paragraphs, one command each; otherwise
    the script as a whole, run as a program.
    """
    body = re.sub(r"\A(?:#.*\n)*", "", script).strip()
    if not body:
        return ()
    if not apart:
        return ("bash /solution/solve.sh",)
    return tuple(part.strip("\n") for part in re.split(r"\n[ \t]*\n", body) if part.strip())


def _build(context: Mapping[str, File]) -> Build:
    if "Dockerfile" not in context:
        return Build()
    beside = {path: file for path, file in context.items() if path != "Dockerfile"}
    return read_dockerfile(_text(context, "Dockerfile"), beside)


def _instruction_v1(described: Mapping[str, Any]) -> str:
    if "instruction" in described:
        return str(described["instruction"]).strip()
    for one in described.get("descriptions", ()):
        if one.get("key", "base") == "base":
            return str(one.get("description", "")).strip()
    return ""


def _several_services(files: Mapping[str, File]) -> bool:
    if "docker-compose.yaml" not in files:
        return False
    composed = yaml.safe_load(_text(files, "docker-compose.yaml")) or {}
    return len(composed.get("services", {})) > 1


def _parsed(name: str, file: str, parse: Any, content: File) -> dict[str, Any]:
    try:
        parsed = parse(content.content.decode("utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(f"task {name}: {file} cannot be read ({said}); correct it") from None
    if not isinstance(parsed, dict):
        raise UsageError(f"task {name}: {file} has no keys; correct it")
    return parsed


def _below(files: Mapping[str, File], folder: str) -> dict[str, File]:
    return {
        path.removeprefix(folder): file for path, file in files.items() if path.startswith(folder)
    }


def _at(folder: str, files: Mapping[str, File]) -> dict[str, File]:
    return {f"{folder}/{path}": file for path, file in files.items()}


def _text(files: Mapping[str, File], path: str) -> str:
    file = files.get(path)
    return "" if file is None else file.content.decode("utf-8", "replace")
