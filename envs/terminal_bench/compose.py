"""A task's compose file: the containers beside the one of its terminal. What a task needs to be
played is read; a key that would change more is a problem, and is named.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from envs.terminal_bench.described import Described
from envs.terminal_bench.machine import File
from envs.terminal_bench.task import Service, below

_FILE = "docker-compose.yaml"
_TERMINAL = ("client", "main")
"""What the layouts call the service in which the agent works."""
_READ = {"build", "image", "command", "environment", "healthcheck", "container_name", "hostname"}
_UNIMPORTANT = {
    *("depends_on", "ports", "expose", "networks", "restart", "init", "tty", "stdin_open"),
    *("stop_grace_period", "logging", "labels", "platform", "deploy", "pull_policy", "profiles"),
}
"""All share one network and are started together; nothing outside can reach them."""
_AT_THE_TOP = {"services", "version", "name", "volumes", "networks"}
_OF_A_BUILD = {"context", "dockerfile", "tags", "labels"}


@dataclass(frozen=True)
class Composed:
    """What the terminal's container is built of, its variables, the services beside it, and why
    they cannot be started.
    """

    folder: str = ""
    dockerfile: str = "Dockerfile"
    environment: Mapping[str, str] = field(default_factory=dict)
    services: tuple[Service, ...] = ()
    problems: tuple[str, ...] = ()


def read_compose(task: str, files: Mapping[str, File], shown: Mapping[str, File]) -> Composed:
    """What the compose file among these files says; nothing where there is none. Images are built
    of those that are `shown`. Raises UsageError where it cannot be read.
    """
    if _FILE not in files:
        return Composed()
    document = Described.read(task, _FILE, files[_FILE])
    described = document.table("services")
    names = described.names()
    terminal = next((name for name in _TERMINAL if name in names), "")
    problems = [
        f"{_FILE}: {key} is not understood"
        for key in document.names()
        if key not in _AT_THE_TOP and not key.startswith("x-")
    ]
    if names and not terminal:
        problems.append(f"{_FILE}: none of {', '.join(names)} is called client or main")
    services = []
    for name in names:
        keys = described.table(name)
        problems += _unknown(name, keys, name == terminal)
        if name != terminal:
            services.append(_service(name, keys, shown))
    for service in services:
        if not service.image and "Dockerfile" not in service.context:
            problems.append(f"{_FILE}: services.{service.name}: neither an image nor a Dockerfile")
    terminal_keys = described.table(terminal)
    folder, dockerfile = _build(terminal_keys)
    return Composed(folder, dockerfile, _variables(terminal_keys), tuple(services), tuple(problems))


def context_of(folder: str, dockerfile: str, files: Mapping[str, File]) -> dict[str, File]:
    """The files that an image is built of, its Dockerfile by that name."""
    context = below(files, f"{folder}/") if folder else dict(files)
    if dockerfile in context:
        context["Dockerfile"] = context[dockerfile]
    return context


def _unknown(name: str, keys: Described, terminal: bool) -> list[str]:
    allowed_keys = _READ | _UNIMPORTANT | ({"volumes"} if terminal else set())
    unknown_keys = [key for key in keys.names() if key not in allowed_keys]
    if isinstance(keys.value("build"), dict):
        unknown_keys += [
            f"build.{key}" for key in keys.table("build").names() if key not in _OF_A_BUILD
        ]
    problems = [f"{_FILE}: services.{name}.{key} is not understood" for key in unknown_keys]
    if not terminal:
        texts = {"image": keys.text("image"), "command": " ".join(_words(keys, "command"))}
        texts["healthcheck.test"] = " ".join(_health(keys.table("healthcheck")))
        problems += [
            f"{_FILE}: services.{name}.{key}: no variable is known here; write its value"
            for key, text in texts.items()
            if _set_by_harness(text)
        ]
    return problems


def _service(name: str, keys: Described, files: Mapping[str, File]) -> Service:
    folder, dockerfile = _build(keys)
    context = context_of(folder, dockerfile, files) if "build" in keys.names() else {}
    names = [keys.text("container_name"), keys.text("hostname")]
    return Service(
        name=name,
        image="" if context else keys.text("image"),
        context=context,
        command=tuple(map(_plain, _words(keys, "command"))),
        environment=_variables(keys),
        aliases=tuple(alias for alias in (name, *names) if alias and not _set_by_harness(alias)),
        health=tuple(map(_plain, _health(keys.table("healthcheck")))),
    )


def _build(keys: Described) -> tuple[str, str]:
    """The folder of a build, empty for the whole, and the name of its Dockerfile."""
    build = keys.value("build")
    if not isinstance(build, dict):
        build = {"context": build or "."}
    folder = str(PurePosixPath(str(build.get("context", "."))))
    is_whole = folder == "." or _set_by_harness(folder)
    return "" if is_whole else folder, str(build.get("dockerfile", "Dockerfile"))


def _variables(keys: Described) -> dict[str, str]:
    """Environment variables, written as a section or as a list; not those of the harness."""
    if isinstance(keys.value("environment"), list):
        pairs = [str(entry).partition("=") for entry in keys.listed("environment")]
        variables = {name: value for name, equals, value in pairs if equals}
    else:
        variables = keys.texts("environment")
    return {name: _plain(value) for name, value in variables.items() if not _set_by_harness(value)}


def _set_by_harness(text: str) -> bool:
    """Whether a text has a variable of whoever starts the containers."""
    return "${" in text.replace("$$", "")


def _plain(text: str) -> str:
    """A text as the container gets it: two dollars are one."""
    return text.replace("$$", "$")


def _words(keys: Described, key: str) -> tuple[str, ...]:
    """A command, written as words or as one line of a shell."""
    if isinstance(keys.value(key), list):
        return tuple(str(word) for word in keys.listed(key))
    try:
        return tuple(shlex.split(keys.text(key)))
    except ValueError as error:
        raise keys.wrong(key, f"a quote is open ({error}); close it") from None


def _health(keys: Described) -> tuple[str, ...]:
    """The test by which a service is ready, as an engine takes it."""
    if isinstance(keys.value("test"), list):
        return tuple(str(word) for word in keys.listed("test"))
    test = keys.text("test")
    return ("CMD-SHELL", test) if test else ()
