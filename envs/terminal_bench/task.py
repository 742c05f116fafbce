"""A task, and what the readers of both layouts of task folders share. Nothing of a folder is run
here, and no file is changed.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from envs.terminal_bench.dockerfile import Build, read_dockerfile
from envs.terminal_bench.machine import File
from r2v_dist.errors import UsageError

_MOST_BYTES = 64 << 20
_MOST_FILES = 5000
TESTS = "/tests"


@dataclass(frozen=True)
class Service:
    """A container beside that of a terminal: its image, or what it is built of; its command and
    health check, where they are not the image's; and the names by which it is reached.
    """

    name: str
    image: str = ""
    context: Mapping[str, File] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    health: tuple[str, ...] = ()


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
    test_environment: Mapping[str, str] = field(default_factory=dict)
    test_packages: tuple[str, ...] = ()
    """Debian's packages that its tests need, and in `test_python` Python's."""
    test_python: tuple[str, ...] = ()
    reward_file: str = ""
    needs_exit_0: bool = True
    oracle: tuple[str, ...] = ()
    oracle_files: Mapping[str, File] | None = None
    wrong: tuple[str, ...] = ()
    keeps_processes: bool = True
    test_s: float = 60.0
    difficulty: str = ""
    category: str = ""
    services: tuple[Service, ...] = ()
    """Containers beside that of the terminal."""
    service_problems: tuple[str, ...] = ()
    image: str = ""
    """The image to pull, where the task names one; else it is built of `context`."""
    context: Mapping[str, File] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Why nobody can play it: parts of the folder that are missing."""


def read_folder(folder: Path) -> dict[str, File]:
    """Every file below a folder, by relative path; a link within the folder counts as the file it
    leads to. Raises UsageError where there are too many bytes to be a task's, and for what cannot
    be copied: a link to elsewhere or to a folder, a pipe, a device.
    """
    files: dict[str, File] = {}
    total = 0
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in sorted(names + links):
            path = Path(place, name)
            info = _plain(path, folder)
            total += info.st_size
            if total > _MOST_BYTES or len(files) >= _MOST_FILES:
                raise UsageError(
                    f"task folder {folder}: more than {_MOST_BYTES >> 20} MiB or {_MOST_FILES} "
                    f"files; a task's folder is smaller"
                )
            files[str(path.relative_to(folder))] = File(path.read_bytes(), info.st_mode & 0o777)
    return files


def _plain(path: Path, folder: Path) -> os.stat_result:
    """What is known of a file, or of the file in the same folder that a link leads to."""
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"task folder {folder}: {path.relative_to(folder)} is a link out of it")
    if not path.is_file():
        raise UsageError(
            f"task folder {folder}: {path.relative_to(folder)} is neither a file nor a link to one"
        )
    return path.stat()


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


def build_of(context: Mapping[str, File]) -> Build:
    """The build of a Dockerfile and the files beside it."""
    if "Dockerfile" not in context:
        return Build()
    beside = {path: file for path, file in context.items() if path != "Dockerfile"}
    return read_dockerfile(text_in(context, "Dockerfile"), beside)


def with_variables(build: Build, variables: Mapping[str, str]) -> Build:
    """A build whose machine has more variables."""
    return replace(build, environment=(*build.environment, *variables.items()))


def below(files: Mapping[str, File], folder: str) -> dict[str, File]:
    """The files of a folder, by paths in it."""
    return {
        path.removeprefix(folder): file for path, file in files.items() if path.startswith(folder)
    }


def at(folder: str, files: Mapping[str, File]) -> dict[str, File]:
    """Files by their paths in a machine."""
    return {f"{folder}/{path}": file for path, file in files.items()}


def text_in(files: Mapping[str, File], path: str) -> str:
    """The text of a file, empty where there is none."""
    file = files.get(path)
    return "" if file is None else file.content.decode("utf-8", "replace")
