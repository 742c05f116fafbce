"""Generates games in worker processes with a fixed hash seed, so that a seed gives the same game
anywhere.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any

from envs.textworld.games import GameSpec, game_path, is_cached, sha256
from r2v_dist.errors import RuntimeFailure

GENERATION_DEADLINE_S = 120.0


def generate(
    specs: Iterable[GameSpec],
    cache: Path,
    workers: int,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Make every game that is not cached yet, `workers` at a time, and return their paths in order.

    Raises RuntimeFailure when a worker dies, runs past its deadline or cannot compile a game.
    """
    specs = list(specs)
    cache.mkdir(parents=True, exist_ok=True)
    todo: Queue[GameSpec] = Queue()
    for spec in {s.id: s for s in specs if not is_cached(game_path(cache, s))}.values():
        todo.put(spec)
    total = todo.qsize()
    failures = Queue[str]()
    done = [0]

    def work() -> None:
        with _Worker(cache) as worker:
            while failures.empty():
                try:
                    spec = todo.get_nowait()
                except Empty:
                    return
                if problem := worker.make(spec):
                    failures.put(f"cannot generate game {spec.id} {dict(spec.settings)}: {problem}")
                    return
                done[0] += 1
                on_done(done[0], total)

    threads = [threading.Thread(target=work) for _ in range(min(workers, total))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not failures.empty():
        raise RuntimeFailure(failures.get())
    return [game_path(cache, spec) for spec in specs]


class _Worker:
    """A process that makes games, one JSON line in, one line out."""

    def __init__(self, cache: Path) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "envs.textworld.generator", str(cache)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            encoding="utf-8",
        )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def make(self, spec: GameSpec) -> str:
        """Empty when the game was published, else what went wrong."""
        stdin, stdout = _pipes(self._process)
        watchdog = threading.Timer(GENERATION_DEADLINE_S, self._process.kill)
        watchdog.start()
        try:
            stdin.write(json.dumps(asdict(spec)) + "\n")
            stdin.flush()
            answer = stdout.readline()
        finally:
            watchdog.cancel()
        return (
            json.loads(answer)["problem"]
            if answer
            else f"the worker died or ran past {GENERATION_DEADLINE_S:.0f} s"
        )


def _pipes(process: "subprocess.Popen[str]") -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _make(spec: GameSpec) -> Any:
    """The uncompiled game. Custom games are quests as `tw-make custom` makes them."""
    import textworld
    import textworld.challenges
    import textworld.generator

    options = textworld.GameOptions()
    options.seeds = spec.seed
    if (
        spec.text == "plain" and spec.challenge != "cooking"
    ):  # cooking brings a grammar of its own, with one theme only
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


def _publish(spec: GameSpec, cache: Path) -> None:
    from textworld.generator import compile_game

    game, options = _make(spec)
    target = game_path(cache, spec)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        options.path = str(Path(scratch) / target.name)
        options.force_recompile = True
        made = Path(compile_game(game, options))
        digest = made.with_suffix(".sha256")
        digest.write_text(sha256(made), encoding="utf-8")
        for suffix in (".json", ".sha256", ".z8"):
            shutil.move(made.with_suffix(suffix), target.with_suffix(suffix))


def _serve(cache: Path) -> None:
    # The compilers print; the parent reads answers from the real stdout.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        raw = json.loads(line)
        spec = GameSpec(
            raw["challenge"], raw["seed"], raw["text"], tuple((k, v) for k, v in raw["settings"])
        )
        problem = ""
        with (
            open(os.devnull, "w", encoding="utf-8") as silence,
            contextlib.redirect_stdout(silence),
        ):
            try:
                _publish(spec, cache)
            # A boundary: the parent process turns it into a RuntimeFailure.
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        answers.write(json.dumps({"problem": problem}) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
