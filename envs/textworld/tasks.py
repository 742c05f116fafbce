"""Which games belong to which split: the same seed draws the same games, and no game is in two
splits.
"""

import hashlib
import os
from pathlib import Path
from typing import cast

from envs.spec import TaskRequest
from envs.textworld.check import check_games
from envs.textworld.games import GameFamily, GameSpec, draw_games, game_path
from envs.textworld.generator import generate
from r2v_dist.config.env import SPLITS, EnvConfig, GameFamilyConfig, Split, SplitSizes
from r2v_dist.config.places import make_cache, require_writable
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError

_SAMPLE_STEPS = 60


def make_tasks(request: TaskRequest) -> list[Task]:
    """All games of a run; generates those that are not cached.

    Raises UsageError for missing games, and where two splits would share one.
    """
    config = request.config
    cache = config.cache.expanduser().resolve()
    check_games(config.files, cache)
    specs_by_split = drawn_games(config, request.seed)
    files_by_split = _named(config)
    specs = [spec for split in SPLITS for spec in specs_by_split[split]]
    if specs:
        generate(specs, make_cache(cache, "env.cache"), request.workers, request.on_done)
    tasks = []
    for split in SPLITS:
        games = [(spec.id, game_path(cache, spec)) for spec in specs_by_split[split]]
        tasks += [
            _task(name, split, path, config) for name, path in (*files_by_split[split], *games)
        ]
    return tasks


def check_tasks(request: TaskRequest) -> None:
    """Raises UsageError where `make_tasks` would find that there cannot be such games."""
    config = request.config
    _named(config)
    if any(drawn_games(config, request.seed).values()):
        require_writable(config.cache, "env.cache")


def identity(config: EnvConfig) -> dict[str, str]:
    """Digests of the game files that the configuration names."""
    digests: dict[str, str] = {}
    for split, games in _named(config).items():
        for name, path in games:
            digests[f"{split}: {name}"] = _digest(path)
    return digests


def in_place(task: Task, config: EnvConfig) -> bool:
    """Whether the game lies where the configuration says now."""
    arguments = dict(task.env_kwargs)
    if "game" not in arguments:
        return True
    game = Path(str(arguments["game"]))
    files = config.files.get(cast(Split, task.split), ())
    folders = {path.resolve().parent for path in files} if files else {config.cache.resolve()}
    return game.is_file() and game.parent in folders


def sample() -> list[Task]:
    """Ten small games."""
    settings: dict[str, tuple[int, int] | str] = {
        "rooms": (1, 4),
        "objects": (3, 8),
        "quest_length": (2, 6),
        "instructions": "full",
    }
    config = EnvConfig(
        games=(GameFamilyConfig(settings=settings),),
        splits=SplitSizes(train=1, test=9),
        max_steps=_SAMPLE_STEPS,
    )
    return make_tasks(TaskRequest(config, 0, workers=os.cpu_count() or 1))


def drawn_games(config: EnvConfig, seed: int) -> dict[Split, list[GameSpec]]:
    """The games to generate for every split. Raises UsageError where there are too few, or one is
    in two splits.
    """
    families = [
        GameFamily(g.challenge, tuple(sorted(g.settings.items())), config.text, g.weight)
        for g in config.games
    ]
    specs_by_split: dict[Split, list[GameSpec]] = {split: [] for split in SPLITS}
    split_of: dict[str, Split] = {}
    for split in SPLITS:
        count = 0 if split in config.files else config.size(split)
        if count and not families:
            raise UsageError(
                f"env.splits.{split} = {count}: neither env.games nor env.files.{split} says "
                f"which; add one or set 0"
            )
        specs_by_split[split] = draw_games(families, split, count, seed) if count else []
        for spec in specs_by_split[split]:
            if spec.id in split_of:
                raise UsageError(
                    f"env: game {spec.id} is in the splits {split_of[spec.id]} and {split}; widen "
                    f"the ranges of env.games"
                )
            split_of[spec.id] = split
    return specs_by_split


def _task(name: str, split: Split, game: Path, config: EnvConfig) -> Task:
    arguments = (("game", str(game.resolve())), ("max_steps", config.max_steps))
    return Task(name, split, "r2v/TextWorld-v0", arguments)


def _named(config: EnvConfig) -> dict[Split, list[tuple[str, Path]]]:
    """Every game file that the configuration names, with the task's id: its name and a digest of
    its bytes, so that files of equal names are different games. Raises UsageError for a missing
    one, and for a game that stands twice.
    """
    files_by_split: dict[Split, list[tuple[str, Path]]] = {split: [] for split in SPLITS}
    place_by_digest: dict[str, str] = {}
    for split, files in config.files.items():
        for path in files:
            if not os.path.isfile(path):
                raise UsageError(
                    f"env.files.{split}: game file {path} does not exist; generate one with "
                    f"tw-make or remove the entry"
                )
            digest = _digest(path)
            place = f"env.files.{split}: {path}"
            if digest in place_by_digest:
                raise UsageError(
                    f"{place}: the same game as {place_by_digest[digest]}; name every game once"
                )
            place_by_digest[digest] = place
            files_by_split[split].append((f"{path.stem}-{digest[:8]}", path))
    return files_by_split


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"game file {path} cannot be read ({error.strerror})") from None
