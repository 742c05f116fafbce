"""The first layout of a task folder: `task.yaml`, with everything else beside it."""

from collections.abc import Mapping

from envs.terminal_bench.compose import context_of, read_compose
from envs.terminal_bench.described import Described, parsed
from envs.terminal_bench.machine import File
from envs.terminal_bench.offline import PYTEST_SAID, offline
from envs.terminal_bench.task import (
    TESTS,
    TerminalTask,
    at,
    below,
    build_of,
    commands_of,
    text_in,
    with_variables,
)

_KEPT_OUT = ("task.yaml", "docker-compose.yaml", "solution", "run-tests.sh", "tests/")
_SCRIPT = "/tests/run-tests.sh"


def read_v1(name: str, files: Mapping[str, File]) -> TerminalTask:
    """The task of a folder's files. Raises UsageError where `task.yaml` cannot be used."""
    described = Described.read(name, "task.yaml", files["task.yaml"])
    # An agent sees none of these, whatever a Dockerfile copies.
    visible_files = {path: file for path, file in files.items() if not path.startswith(_KEPT_OUT)}
    composed = read_compose(name, files, visible_files)
    context = context_of(composed.folder, composed.dockerfile, visible_files)
    tests = at(TESTS, below(files, "tests/"))
    if "run-tests.sh" in files:
        tests[_SCRIPT] = files["run-tests.sh"]
    test_run = offline(tests, _SCRIPT)
    instruction = _instruction(described)
    return TerminalTask(
        name=name,
        instruction=instruction,
        build=with_variables(build_of(context), composed.environment),
        tests=test_run.tests,
        test_script=test_run.command,
        test_packages=test_run.debian,
        test_python=test_run.python,
        # The benchmark looks at what pytest says, whatever the script does after it.
        reward_file=PYTEST_SAID if test_run.recorded else "",
        needs_exit_0=not test_run.recorded,
        oracle=_oracle(name, files),
        oracle_files=_oracle_files(files),
        test_s=described.seconds("max_test_timeout_sec", 60.0),
        difficulty=described.text("difficulty"),
        category=described.text("category"),
        services=composed.services,
        service_problems=composed.problems,
        context=context,
        problems=tuple(_problems(files, context, described, instruction)),
    )


def _problems(
    files: Mapping[str, File], context: Mapping[str, File], described: Described, instruction: str
) -> list[str]:
    problems = [] if "Dockerfile" in context else ["Dockerfile is missing"]
    if "run-tests.sh" not in files:
        problems.append("run-tests.sh is missing")
    if not instruction:
        problems.append("task.yaml: instruction is missing")
    if (parser := described.text("parser_name")) not in ("", "pytest"):
        problems.append(f"task.yaml: parser_name = {parser}: only pytest's verdict can be read")
    return problems


def _oracle(name: str, files: Mapping[str, File]) -> tuple[str, ...]:
    """`solution.sh`, else the commands of `solution.yaml` where each is waited for; one that types
    keys into a program is not understood.
    """
    if "solution.sh" in files or "solution.yaml" not in files:
        return commands_of(text_in(files, "solution.sh"), False)
    steps = parsed(name, "solution.yaml", files["solution.yaml"])
    is_plain = isinstance(steps, list) and all(
        isinstance(step, dict) and step.get("block") and step.get("append_enter") for step in steps
    )
    return tuple(str(step.get("command", "")) for step in steps) if is_plain else ()


def _oracle_files(files: Mapping[str, File]) -> dict[str, File] | None:
    if "solution.sh" not in files:
        return None
    return {"/solution/solve.sh": files["solution.sh"]}


def _instruction(described: Described) -> str:
    if instruction := described.text("instruction").strip():
        return instruction
    for entry in described.listed("descriptions"):
        if isinstance(entry, dict) and entry.get("key", "base") == "base":
            return str(entry.get("description", "")).strip()
    return ""
