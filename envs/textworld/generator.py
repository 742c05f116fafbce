"""Generates games in worker processes with a fixed hash seed, so that a seed gives the same game
anywhere.

A worker that dies takes no game with it: the games that are missing are made by new workers, half
as many, down to one. Only a game that ends its only worker again is given up.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from envs.textworld.games import GameSpec, game_path, is_cached, sha256
from r2v_dist.errors import RuntimeFailure

GENERATION_DEADLINE_S = 120.0
"""Of one game; its worker ends itself."""
START_DEADLINE_S = 120.0
_HASH_SEED = "PYTHONHASHSEED"


def generate(
    specs: Iterable[GameSpec],
    cache: Path,
    workers: int,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Make every game that is not cached yet, `workers` at a time, and return their paths in order.

    Raises RuntimeFailure for a game that cannot be made, or that ends its worker again and again.
    """
    specs = list(specs)
    cache.mkdir(parents=True, exist_ok=True)
    uncached_specs = {spec.id: spec for spec in specs if not is_cached(game_path(cache, spec))}
    total = len(uncached_specs)
    suspect = ""
    while uncached_specs:
        workers = min(workers, len(uncached_specs))
        for spec in _made(list(uncached_specs.values()), cache, workers):
            del uncached_specs[spec.id]
            on_done(total - len(uncached_specs), total)
        if uncached_specs and workers == 1:
            first_spec = next(iter(uncached_specs.values()))
            if first_spec.id == suspect:
                reason = f"its worker died or ran past {GENERATION_DEADLINE_S:g} s, twice"
                raise _failure(first_spec, reason)
            suspect = first_spec.id
        workers = max(1, workers // 2)
    return [game_path(cache, spec) for spec in specs]


def _made(specs: list[GameSpec], cache: Path, workers: int) -> Iterator[GameSpec]:
    """The games as they are published, up to the death of a worker.

    Raises RuntimeFailure for one that TextWorld cannot make.
    """
    earlier_workers = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    try:
        with _fixed_hash_seed():
            games = {
                pool.submit(_publish, spec, cache, GENERATION_DEADLINE_S): spec for spec in specs
            }
        for game in as_completed(games, START_DEADLINE_S + GENERATION_DEADLINE_S * len(specs)):
            problem = game.exception()
            if problem is None:
                yield games[game]
            elif not isinstance(problem, BrokenProcessPool):
                raise _failure(games[game], f"{type(problem).__name__}: {problem}") from None
    except (BrokenProcessPool, TimeoutError):
        for worker in set(multiprocessing.active_children()) - earlier_workers:
            worker.kill()
    finally:
        pool.shutdown(cancel_futures=True)


def _failure(spec: GameSpec, problem: str) -> RuntimeFailure:
    return RuntimeFailure(f"cannot generate game {spec.id} {dict(spec.settings)}: {problem}")


@contextlib.contextmanager
def _fixed_hash_seed() -> Iterator[None]:
    """Processes that start in this block have the hash seed 0: Python reads it when it starts."""
    previous = os.environ.get(_HASH_SEED)
    os.environ[_HASH_SEED] = "0"
    try:
        yield
    finally:
        if previous is None:
            del os.environ[_HASH_SEED]
        else:
            os.environ[_HASH_SEED] = previous


def _start_worker() -> None:
    """A worker keeps what the compilers print to itself, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    os.dup2(2, 1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- as long as it lives
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(spec: GameSpec) -> Any:
    """The uncompiled game. Custom games are quests as `tw-make custom` makes them."""
    import textworld
    import textworld.challenges
    import textworld.generator

    options = textworld.GameOptions()
    options.seeds = spec.seed
    # Cooking brings a grammar of its own, with one theme only.
    if spec.text == "plain" and spec.challenge != "cooking":
        options.grammar.theme = "basic"
    options.grammar.include_adj = False
    options.grammar.allowed_variables_numbering = True
    settings: dict[str, Any] = dict(spec.settings)
    if spec.challenge == "custom":
        options.nb_rooms = settings["rooms"]
        options.nb_objects = settings["objects"]
        options.quest_length = settings["quest_length"]
        options.grammar.only_last_action = settings["instructions"] == "last"
        return textworld.generator.make_game(options), options
    name = f"tw-{spec.challenge}"
    if spec.challenge == "cooking":
        settings = {"recipe_seed": 0, "split": None, **{k: v for k, v in settings.items() if v}}
    return textworld.challenges.CHALLENGES[name][1](settings, options), options


def _publish(spec: GameSpec, cache: Path, seconds: float) -> None:
    """What a worker does: make a game, compile it, and rename it into place."""
    with _deadline(seconds):
        from textworld.generator import compile_game

        game, options = _make(spec)
        target = game_path(cache, spec)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            options.path = str(Path(scratch) / target.name)
            options.force_recompile = True
            game_file = Path(compile_game(game, options))
            digest = game_file.with_suffix(".sha256")
            digest.write_text(sha256(game_file), encoding="utf-8")
            for suffix in (".json", ".sha256", ".z8"):
                shutil.move(game_file.with_suffix(suffix), target.with_suffix(suffix))


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Ends this process where the block runs too long, even in foreign code."""
    with open(os.devnull, "w", encoding="utf-8") as traceback:
        faulthandler.dump_traceback_later(seconds, exit=True, file=traceback)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
