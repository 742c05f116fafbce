"""Which terminal tasks belong to which split."""

import hashlib
from functools import cache
from itertools import islice
from pathlib import Path

from envs.spec import TaskRequest
from envs.terminal_bench.docker.engine import client
from envs.terminal_bench.listing import fit_of, task_folders
from envs.terminal_bench.own.catalogue import families_of, missing_programs, task_name
from envs.terminal_bench.own.family import Family
from envs.terminal_bench.sandbox.machine import require_bubblewrap
from r2v_dist.config.env import SPLITS, EnvConfig, Split
from r2v_dist.config.terminal import TerminalConfig
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError
from r2v_dist.seeding import stable_hash

TERMINAL_BENCH = "r2v/TerminalBench-v0"
_OWN = Path(__file__).parent / "own"
_SAMPLE_SEED = 0
_MOST_STEPS = 60
"""Of tasks that are checked."""


def make_tasks(request: TaskRequest) -> list[Task]:
    """Tasks of the project's own in every split, or a user's directory as the test split.

    Raises UsageError where there are too few, or this machine cannot run them.
    """
    config = request.config
    if config.terminal.backend == "docker":
        client(config.terminal.engine).close()
    else:
        _require_sandbox(config)
    arguments = _arguments(config)
    tasks = []
    for split in SPLITS:
        count = config.size(split)
        if split == "test" and config.terminal.tasks is not None:
            entries = _of_directory(config.terminal, count)
        else:
            entries = [(name, name) for name in own_names(split, count, request.seed)]
        for name, place in entries:
            tasks.append(Task(name, split, TERMINAL_BENCH, (("task", place), *arguments)))
    return tasks


def _require_sandbox(config: EnvConfig) -> None:
    """Raises UsageError where our tasks cannot run in the sandbox."""
    require_bubblewrap(config.terminal.root)
    if (programs := missing_programs()) and config.terminal.root is None:
        program, families = next(iter(programs.items()))
        raise UsageError(
            f"env.kind = terminal_bench: the tasks {', '.join(families)} need {program}, which is "
            f"not in /usr; install it (Debian: apt-get install {' '.join(programs)})"
        )


def own_names(split: Split, count: int, seed: int) -> list[str]:
    """Tasks of the families of a split in turn, the instances drawn from a seed."""
    families = families_of(split)
    if count and not families:
        raise UsageError(f"env.splits.{split} = {count}: no family of tasks is in it; set 0")
    names = []
    for place in range(count):
        family = families[place % len(families)]
        names.append(task_name(family, _instance(family, split, place // len(families), seed)))
    return names


def _instance(family: Family, split: Split, number: int, seed: int) -> int:
    """Seeds of instances differ within a family, as each number has a block of its own."""
    return number * 10_000 + stable_hash("terminal-instance", family.name, split, seed) % 10_000


def tasks_in(terminal: TerminalConfig) -> list[Task]:
    """The tasks of a user's directory that the back end can run. Raises UsageError where there are
    none.
    """
    assert terminal.tasks is not None
    require_bubblewrap(terminal.root)
    fits = [fit_of(folder, terminal) for folder in task_folders(terminal.tasks)]
    count = sum(not fit.of(terminal.backend) for fit in fits)
    if not count:
        reason = fits[0].of(terminal.backend)[0]
        raise UsageError(f"{terminal.tasks}: none of its tasks can be run here: {reason}")
    arguments = _arguments(
        EnvConfig(kind="terminal_bench", terminal=terminal, max_steps=_MOST_STEPS)
    )
    return [
        Task(name, "check", TERMINAL_BENCH, (("task", place), *arguments))
        for name, place in _of_directory(terminal, count)
    ]


def _of_directory(config: TerminalConfig, count: int) -> list[tuple[str, str]]:
    """Name and place of tasks of a user's directory that the back end can run."""
    assert config.tasks is not None
    folders = [
        folder
        for folder in task_folders(config.tasks)
        if not fit_of(folder, config).of(config.backend)
    ]
    if count > len(folders):
        raise UsageError(
            f"env.splits.test = {count}: {config.tasks} has {len(folders)} tasks that can be run "
            f"here; lower it, or see r2v tasks list {config.tasks}"
        )
    order = sorted(folders, key=lambda folder: stable_hash("terminal-split", folder.name))
    return [(folder.name, str(folder.resolve())) for folder in islice(order, count)]


def _arguments(config: EnvConfig) -> tuple[tuple[str, str | int | bool], ...]:
    """What every task's environment is made with."""
    terminal = config.terminal.model_copy(update={"tasks": None})
    settings = terminal.model_dump_json(exclude_defaults=True)
    return (("max_steps", config.max_steps), ("terminal", settings))


def identity(config: EnvConfig) -> dict[str, str]:
    """Digests of the task folders that the configuration names, and of what makes ours."""
    folders = [] if config.terminal.tasks is None else task_folders(config.terminal.tasks)
    digests = {folder.name: _digest(folder) for folder in folders}
    return digests | {"tasks of our own": _digest(_OWN, "*.py")}


def in_place(task: Task, config: EnvConfig) -> bool:
    """Whether a task's folder is where the configuration says now."""
    place = str(dict(task.env_kwargs)["task"])
    if "/" not in place:
        return True
    tasks = config.terminal.tasks
    return tasks is not None and Path(place).parent == tasks.resolve() and Path(place).is_dir()


def sample() -> list[Task]:
    """One task of every family."""
    arguments = (("max_steps", _MOST_STEPS),)
    names = [task_name(family, _SAMPLE_SEED) for split in SPLITS for family in families_of(split)]
    return [Task(name, "check", TERMINAL_BENCH, (("task", name), *arguments)) for name in names]


@cache
def _digest(folder: Path, pattern: str = "*") -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(pattern)):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
