"""From a configuration to tasks: every split its own problems, no problem in two splits."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from envs.coding.splits import DEFAULT_SANDBOX, coding_tasks, data_dir_of, pools
from envs.coding.tasks import identity as content
from envs.textworld.check import check_games
from envs.textworld.games import game_path
from envs.textworld.generator import generate
from envs.textworld.tasks import drawn_games
from r2v_dist.config.env import SPLITS, EnvConfig, Split
from r2v_dist.config.places import CACHE_VARIABLE, cache_folder, make_cache, require_writable
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError


def make_tasks(
    config: EnvConfig,
    seed: int,
    workers: int,
    on_done: Callable[[int, int], None],
    sandbox: SandboxConfig = DEFAULT_SANDBOX,
) -> list[Task]:
    """All tasks of a run; generates the games that are not cached.

    Raises UsageError for missing games or data, and where two splits would share a task.
    """
    if config.kind == "humaneval_plus":
        return coding_tasks(config, sandbox)
    cache = config.cache.expanduser().resolve()
    check_games(config.files, cache)
    drawn = drawn_games(config, seed)
    named = _named(config)
    specs = [spec for split in SPLITS for spec in drawn[split]]
    if specs:
        generate(specs, make_cache(cache, "env.cache"), workers, on_done)
    tasks = []
    for split in SPLITS:
        for name, path in [
            *named[split],
            *((spec.id, game_path(cache, spec)) for spec in drawn[split]),
        ]:
            kwargs: tuple[tuple[str, str | int | bool], ...] = (
                ("game", str(path.resolve())),
                ("max_steps", config.max_steps),
            )
            tasks.append(Task(name, split, "r2v/TextWorld-v0", kwargs))
    return tasks


def check_tasks(config: EnvConfig, seed: int, sandbox: SandboxConfig = DEFAULT_SANDBOX) -> None:
    """Raises UsageError where `make_tasks` would find that there cannot be such tasks; makes
    nothing.
    """
    if config.kind == "humaneval_plus":
        coding_tasks(config, sandbox)
        require_writable(cache_folder("code"), CACHE_VARIABLE)
        return
    _named(config)
    if any(drawn_games(config, seed).values()):
        require_writable(config.cache, "env.cache")


def identity(config: EnvConfig) -> dict[str, str]:
    """Digests of what the configuration names by a place: game files, and the data of the
    benchmarks.
    """
    if config.kind == "humaneval_plus":
        return {dataset: content(dataset, config.code.data_dir) for dataset, _ in pools(config)}
    return {
        f"{split}: {name}": _digest(path)
        for split, games in _named(config).items()
        for name, path in games
    }


def at_hand(
    tasks: list[Task], config: EnvConfig, seed: int, workers: int, sandbox: SandboxConfig
) -> list[Task]:
    """The same tasks with their files where the configuration says now; what is gone from there is
    made again.
    """
    if all(_in_place(task, config) for task in tasks):
        return tasks
    by_id = {
        task.id: task
        for task in make_tasks(config, seed, workers, lambda done, total: None, sandbox)
    }
    return [by_id[task.id] for task in tasks]


def _in_place(task: Task, config: EnvConfig) -> bool:
    arguments = dict(task.env_kwargs)
    if config.kind == "humaneval_plus":
        return arguments.get("data_dir", "") == data_dir_of(config)
    if "game" not in arguments:
        return True
    game = Path(str(arguments["game"]))
    files = config.files.get(cast(Split, task.split), ())
    folders = {path.resolve().parent for path in files} if files else {config.cache.resolve()}
    return game.is_file() and game.parent in folders


def _named(config: EnvConfig) -> dict[Split, list[tuple[str, Path]]]:
    """Every game file that the configuration names, with the task's id: its name and a digest of
    its bytes, so that files of equal names are different games. Raises UsageError for a missing
    one, and for a game that stands twice.
    """
    named: dict[Split, list[tuple[str, Path]]] = {split: [] for split in SPLITS}
    known: dict[str, str] = {}
    for split, files in config.files.items():
        for path in files:
            if not os.path.isfile(path):
                raise UsageError(
                    f"env.files.{split}: game file {path} does not exist; generate one with "
                    f"tw-make or remove the entry"
                )
            digest = _digest(path)
            where = f"env.files.{split}: {path}"
            if digest in known:
                raise UsageError(f"{where}: the same game as {known[digest]}; name every game once")
            known[digest] = where
            named[split].append((f"{path.stem}-{digest[:8]}", path))
    return named


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"game file {path} cannot be read ({error.strerror})") from None
