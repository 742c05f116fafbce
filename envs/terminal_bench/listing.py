"""Which back end can run which task of a directory, and why not."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from envs.terminal_bench.reading import is_task, read_task
from envs.terminal_bench.task import TerminalTask, read_folder
from r2v_dist.config.terminal import TerminalConfig
from r2v_dist.errors import UsageError

_USUAL = {
    "build-essential": "gcc",
    "binutils": "objdump",
    "coreutils": "ls",
    "python3-minimal": "python3",
    "python3-pip": "pip3",
    "python": "python3",
    "xz-utils": "xz",
    "vim-tiny": "vi",
    "procps": "ps",
    "netcat-openbsd": "nc",
    "ca-certificates": "true",
    "gawk": "awk",
    "mawk": "awk",
    "findutils": "find",
    "util-linux": "column",
}
"""Programs of packages that are not called like one."""
_COMPOSE = (
    "docker-compose.yaml: it has several containers, "
    "which only env.terminal.backend = docker starts"
)
_DPKG = Path("var/lib/dpkg/status")


@dataclass(frozen=True)
class Fit:
    """What keeps each back end from running a task (nothing where it can), and what its folder
    says of it.
    """

    task: str
    sandbox: tuple[str, ...]
    docker: tuple[str, ...]
    difficulty: str = ""
    category: str = ""

    def of(self, backend: str) -> tuple[str, ...]:
        """The problems of a back end."""
        return self.docker if backend == "docker" else self.sandbox

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def task_folders(directory: Path) -> list[Path]:
    """The task folders of a directory. Raises UsageError where there are none."""
    if not directory.is_dir():
        raise UsageError(
            f"env.terminal.tasks: {directory} is no directory; name one of task folders"
        )
    folders = sorted(
        folder for folder in directory.iterdir() if folder.is_dir() and is_task(folder)
    )
    if not folders and is_task(directory):
        return [directory]
    if not folders:
        raise UsageError(
            f"env.terminal.tasks: no folder in {directory} has a task.toml or a task.yaml"
        )
    return folders


def fit_of(folder: Path, config: TerminalConfig) -> Fit:
    """Which back ends can run the task of a folder."""
    try:
        task = read_task(folder.name, read_folder(folder))
    except UsageError as error:
        return Fit(folder.name, (str(error),), (str(error),))
    docker = tuple(_for_docker(task))
    sandbox = tuple(_for_sandbox(task, config))
    return Fit(folder.name, sandbox, docker, task.difficulty, task.category)


def _for_docker(task: TerminalTask) -> Iterable[str]:
    yield from task.problems
    yield from task.service_problems
    packages = {*task.build.python_packages, *task.build.packages}
    absent = [name for name in task.test_python if not {name, f"python3-{name}"} & packages]
    if absent:
        yield (
            f"its tests would fetch {', '.join(absent)}, and a container has no network; "
            f"let its Dockerfile install it"
        )


def _for_sandbox(task: TerminalTask, config: TerminalConfig) -> Iterable[str]:
    yield from task.problems
    yield from task.build.problems
    if task.services:
        yield _COMPOSE
    packages = (*task.build.packages, *task.test_packages)
    python = (*task.build.python_packages, *task.test_python)
    absent = [name for name in packages if not has_package(name, config.root)]
    absent += [name for name in python if not has_python(name, config.root)]
    if absent:
        place = config.root or "/usr"
        fix = "" if config.root else "; `make terminal-root` makes a root for env.terminal.root"
        yield f"not in {place}: {', '.join(dict.fromkeys(absent))}{fix}"


@cache
def has_package(name: str, root: Path | None) -> bool:
    """Whether a Debian package is in the root, by dpkg's list or by its program."""
    if name.split(":")[0] in _installed(root):
        return True
    program = _USUAL.get(name, name)
    places = [(root or Path("/")) / "usr" / part for part in ("bin", "sbin", "local/bin")]
    return shutil.which(program, path=":".join(map(str, places))) is not None


def has_python(name: str, root: Path | None) -> bool:
    """Whether the root's own Python has a package; that of this machine's /usr is hidden."""
    if root is None:
        return False
    package = _plain(name)
    return any(
        entry == package or entry.startswith(f"{package}_") for entry in _python_entries(root)
    )


@cache
def _python_entries(root: Path) -> frozenset[str]:
    """What lies in the root's folders of Python packages."""
    return frozenset(_plain(path.name) for path in (root / "usr").glob("l*/**/*-packages/*"))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


@cache
def _installed(root: Path | None) -> frozenset[str]:
    """Names of the packages that dpkg knows as installed."""
    status = (root or Path("/")) / _DPKG
    if not status.is_file():
        return frozenset()
    names = []
    name = ""
    for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("Package: "):
            name = line.removeprefix("Package: ")
        elif line == "Status: install ok installed":
            names.append(name)
    return frozenset(names)


def render(fits: list[Fit]) -> str:
    """A line for each task and back end that cannot run it."""
    lines = [f"{sum(not fit.sandbox for fit in fits)} of {len(fits)} tasks run in the sandbox here"]
    for fit in fits:
        kind = ", ".join(filter(None, (fit.difficulty, fit.category)))
        name = f"{fit.task} ({kind})" if kind else fit.task
        if fit.sandbox and fit.sandbox == fit.docker:
            lines.append(f"  {name}: nowhere: {'; '.join(fit.sandbox)}")
        else:
            sandbox, docker = _said(fit.sandbox), _said(fit.docker)
            lines.append(f"  {name}: sandbox {sandbox}, docker {docker}")
    return "\n".join(lines)


def _said(problems: tuple[str, ...]) -> str:
    return f"no ({'; '.join(problems)})" if problems else "yes"
