"""The first layout of a task folder: `task.yaml`, with everything else beside it."""

from collections.abc import Mapping

from envs.terminal_bench import offline
from envs.terminal_bench.described import Described
from envs.terminal_bench.machine import File
from envs.terminal_bench.task import (
    TESTS,
    TerminalTask,
    at,
    below,
    build_of,
    commands_of,
    scripts_of,
    text_in,
)

_KEPT_OUT = ("task.yaml", "docker-compose.yaml", "solution", "run-tests.sh", "tests/")
_SCRIPT = "/tests/run-tests.sh"


def read_v1(name: str, files: Mapping[str, File]) -> TerminalTask:
    """The task of a folder's files. Raises UsageError where `task.yaml` cannot be used."""
    described = Described.read(name, "task.yaml", files["task.yaml"])
    # An agent sees none of these, whatever a Dockerfile copies.
    context = {path: file for path, file in files.items() if not path.startswith(_KEPT_OUT)}
    tests = at(TESTS, below(files, "tests/"))
    if "run-tests.sh" in files:
        tests[_SCRIPT] = files["run-tests.sh"]
    scripts = scripts_of(tests)
    fetching = offline.fetches(scripts)
    debian, python = offline.needs(scripts)
    recorded = fetching and offline.records(scripts)
    if fetching:
        tests |= offline.programs(offline.has_settings(tests))
    instruction = _instruction(described)
    return TerminalTask(
        name=name,
        instruction=instruction,
        build=build_of(context),
        tests=tests,
        test_script=offline.beside(_SCRIPT) if fetching else f"bash {_SCRIPT}",
        test_packages=debian,
        test_python=python,
        # The benchmark looks at what pytest says, whatever the script does after it.
        reward_file=offline.PYTEST_SAID if recorded else "",
        needs_exit_0=not recorded,
        oracle=commands_of(text_in(files, "solution.sh"), False),
        oracle_files=at(
            "/solution", {"solve.sh": files["solution.sh"]} if "solution.sh" in files else {}
        ),
        test_s=described.seconds("max_test_timeout_sec", 60.0),
        difficulty=described.text("difficulty"),
        category=described.text("category"),
        compose=_several_services(name, files),
        context=context,
        problems=tuple(_problems(files, described, instruction)),
    )


def _problems(files: Mapping[str, File], described: Described, instruction: str) -> list[str]:
    problems = [f"{one} is missing" for one in ("Dockerfile", "run-tests.sh") if one not in files]
    if not instruction:
        problems.append("task.yaml: instruction is missing")
    if (parser := described.text("parser_name")) not in ("", "pytest"):
        problems.append(f"task.yaml: parser_name = {parser}: only pytest's verdict can be read")
    return problems


def _instruction(described: Described) -> str:
    if said := described.text("instruction").strip():
        return said
    for one in described.listed("descriptions"):
        if isinstance(one, dict) and one.get("key", "base") == "base":
            return str(one.get("description", "")).strip()
    return ""


def _several_services(name: str, files: Mapping[str, File]) -> bool:
    if "docker-compose.yaml" not in files:
        return False
    composed = Described.read(name, "docker-compose.yaml", files["docker-compose.yaml"])
    return len(composed.table("services").names()) > 1
