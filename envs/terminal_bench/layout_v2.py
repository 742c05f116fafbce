"""The second layout of a task folder, Harbor's: `task.toml`, with a folder for each purpose."""

from collections.abc import Mapping

from envs.terminal_bench.compose import context_of, read_compose
from envs.terminal_bench.described import Described
from envs.terminal_bench.dockerfile import Build
from envs.terminal_bench.machine import File
from envs.terminal_bench.offline import offline
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

_SCRIPT = "/tests/test.sh"
_REWARD = "/logs/verifier/reward.txt"


def read_v2(name: str, files: Mapping[str, File]) -> TerminalTask:
    """The task of a folder's files. Raises UsageError where `task.toml` cannot be used."""
    described = Described.read(name, "task.toml", files["task.toml"])
    metadata = described.table("metadata")
    environment = described.table("environment")
    verifier = described.table("verifier")
    context = below(files, "environment/")
    composed = read_compose(name, context, context)
    context = context_of(composed.folder, composed.dockerfile, context)
    image = environment.text("docker_image")
    test_run = offline(at(TESTS, below(files, "tests/")), _SCRIPT)
    in_words = metadata.flag("r2v_commands")
    return TerminalTask(
        name=name,
        instruction=text_in(files, "instruction.md").strip(),
        build=_build(context, image, environment.texts("env") | dict(composed.environment)),
        tests=test_run.tests,
        test_script=test_run.command,
        test_environment=verifier.texts("env"),
        test_packages=test_run.debian,
        test_python=test_run.python,
        reward_file=_REWARD,
        needs_exit_0=metadata.flag("r2v_exit_code"),
        oracle=commands_of(text_in(files, "solution/solve.sh"), in_words),
        oracle_files=None if in_words else at("/solution", below(files, "solution/")),
        wrong=commands_of(text_in(files, "solution/wrong.sh"), True),
        keeps_processes=metadata.flag("r2v_keeps_processes", True),
        test_s=verifier.seconds("timeout_sec", 60.0),
        difficulty=metadata.text("difficulty"),
        category=metadata.text("category"),
        services=composed.services,
        service_problems=composed.problems,
        image=image,
        context=context,
        problems=tuple(_problems(files, context, described, image)),
    )


def _build(context: Mapping[str, File], image: str, variables: Mapping[str, str]) -> Build:
    build = build_of(context)
    if image and "Dockerfile" not in context:
        build = Build(problems=(f"it is made of the image {image}",))
    return with_variables(build, variables)


def _problems(
    files: Mapping[str, File], context: Mapping[str, File], described: Described, image: str
) -> list[str]:
    required_files = ("instruction.md", "tests/test.sh")
    problems = [f"{path} is missing" for path in required_files if path not in files]
    if "Dockerfile" not in context and not image:
        problems.insert(0, "environment/Dockerfile is missing")
    if described.listed("steps"):
        problems.append("task.toml: it has steps, and only tasks of one step can be played")
    verifier = described.table("verifier")
    if verifier.text("environment_mode") not in ("", "shared"):
        problems.append("task.toml: verifier.environment_mode: tests run where the agent worked")
    for role in ("agent", "verifier"):
        if (user := described.table(role).text("user")) not in ("", "root", "0"):
            problems.append(f"task.toml: {role}.user = {user}: everything is done as root")
    for section in ("environment", "verifier"):
        for variable, value in described.table(section).texts("env").items():
            if "${" in value:
                problems.append(
                    f"task.toml: {section}.env.{variable} = {value}: no variable of this machine "
                    f"goes into a terminal; write its value"
                )
    return problems
