"""From a configuration to tasks: every split its own problems, no problem in two splits."""

from collections.abc import Callable

from envs.own import EnvSource
from envs.registry import environment
from envs.spec import EnvSpec, TaskRequest
from r2v_dist.config.env import SPLITS, EnvConfig, is_own
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError

DEFAULT_SANDBOX = SandboxConfig()


def make_tasks(
    config: EnvConfig,
    seed: int,
    workers: int,
    on_done: Callable[[int, int], None],
    sandbox: SandboxConfig = DEFAULT_SANDBOX,
) -> list[Task]:
    """All tasks of a run.

    Raises UsageError for missing games or data, and where two splits would share a task.
    """
    return _made(config, TaskRequest(config, seed, sandbox, workers, on_done))


def check_tasks(config: EnvConfig, seed: int, sandbox: SandboxConfig = DEFAULT_SANDBOX) -> None:
    """Raises UsageError where `make_tasks` would find that there cannot be such tasks."""
    request = TaskRequest(config, seed, sandbox)
    check = environment(config.kind).check_tasks
    if check is None:
        _made(config, request)
    else:
        check(request)


def identity(config: EnvConfig) -> dict[str, str]:
    """Digests of what the configuration names by a place: game files, the data of the benchmarks,
    the file of an environment.
    """
    digests = {}
    if is_own(config.kind):
        digests[config.kind.rpartition("/")[2]] = EnvSource.of(config.kind).digest()
    return digests | environment(config.kind).identity(config)


def at_hand(
    tasks: list[Task], config: EnvConfig, seed: int, workers: int, sandbox: SandboxConfig
) -> list[Task]:
    """The same tasks with their files where the configuration says now; what is gone from there is
    made again.
    """
    spec = environment(config.kind)
    if all(spec.in_place(task, config) for task in tasks):
        return tasks
    new_tasks = make_tasks(config, seed, workers, lambda done, total: None, sandbox)
    by_id = {task.id: task for task in new_tasks}
    return [by_id[task.id] for task in tasks]


def _made(config: EnvConfig, request: TaskRequest) -> list[Task]:
    spec = environment(config.kind)
    if not is_own(config.kind):
        return spec.make_tasks(request)
    try:
        tasks = spec.make_tasks(request)
    except UsageError:
        raise
    # A boundary: the function is a user's, and may raise anything.
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(f"env.kind = {config.kind}: make_tasks failed: {message}") from None
    if problem := _problem(tasks, spec, config):
        raise UsageError(f"env.kind = {config.kind}: make_tasks: {problem}")
    return tasks


def _problem(tasks: list[Task], spec: EnvSpec, config: EnvConfig) -> str | None:
    """What is wrong with the tasks that an environment of a user's own has made."""
    if not isinstance(tasks, list) or not all(isinstance(task, Task) for task in tasks):
        return "it gave something else than a list of r2v_dist.episodes.Task"
    split_of: dict[str, str] = {}
    for task in tasks:
        if task.env not in spec.names:
            return f"task {task.id} has the env {task.env}; write {spec.id}, the id of the EnvSpec"
        if task.id in split_of:
            return f"two tasks are called {task.id}; give every problem a name of its own"
        split_of[task.id] = task.split
    splits = list(split_of.values())
    for split in SPLITS:
        if splits.count(split) != config.size(split):
            return (
                f"{splits.count(split)} tasks of split {split} where env.splits.{split} = "
                f"{config.size(split)}; make as many"
            )
    return None
