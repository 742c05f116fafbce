"""Game files from elsewhere are played once before a run relies on them.

The interpreter is a C library that ends its process over a damaged file, crashes or never returns,
so this happens in a process of its own, with a deadline. A game that was in order is not played
again while its bytes are the same.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.files import write_atomically
from r2v_dist.processes.child import child_command, child_environment

START_DEADLINE_S = 180.0
GAME_DEADLINE_S = 60.0
_CHECKED = "game-check-1"
"""Part of every mark; raise the number when the check asks for more."""
_LONGEST = 1000


@dataclass(frozen=True)
class _GameFile:
    split: str
    path: Path
    digest: str

    def __str__(self) -> str:
        return f"{self.path} (env.files.{self.split})"


def check_games(files: Mapping[Any, Sequence[Path]], cache: Path) -> None:
    """Play every game file that was not found in order before.

    Raises UsageError for a file that cannot be played and for a game that is given twice,
    RuntimeFailure where no game at all can be played here.
    """
    games = [_read(split, path) for split, paths in files.items() for path in paths]
    game_by_digest: dict[str, _GameFile] = {}
    for game in games:
        if (twin := game_by_digest.setdefault(game.digest, game)) is not game:
            raise UsageError(
                f"env.files: {twin} and {game} are the same game; name it once, in one split"
            )
    marks = cache.expanduser() / "checked"
    todo = [game for game in games if not (marks / _mark(game)).is_file()]
    if todo:
        with _Player() as player:
            for game in todo:
                if problem := player.play(game.path):
                    raise UsageError(f"env.files.{game.split}: game file {game.path} {problem}")
                write_atomically(marks / _mark(game), "")


def _read(split: str, path: Path) -> _GameFile:
    place = f"env.files.{split}: game file {path}"
    if not path.is_file():
        raise UsageError(f"{place} does not exist; generate one with tw-make or remove the entry")
    world = path.with_suffix(".json")
    if not world.is_file():
        raise UsageError(
            f"{place}: no {world.name} beside it; copy it from where the game was made, or remove "
            f"the entry"
        )
    try:
        json.loads(world.read_bytes())
    except ValueError as error:
        raise UsageError(
            f"{place}: {world.name} beside it is not JSON ({error}); copy it again"
        ) from None
    return _GameFile(split, path, hashlib.sha256(path.read_bytes()).hexdigest())


def _mark(game: _GameFile) -> str:
    world = game.path.with_suffix(".json").read_bytes()
    return hashlib.sha256(
        f"{_CHECKED} {game.digest} {hashlib.sha256(world).hexdigest()}".encode()
    ).hexdigest()


class _Player:
    """A process that plays games, one path in, one line about it out."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process does
        command = child_command("-W", "ignore", "-m", "envs.textworld.check")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=child_environment(),
            encoding="utf-8",
        )
        self._late = False

    def __enter__(self) -> "_Player":
        if not self._answer("", START_DEADLINE_S):
            problem = self._ending(START_DEADLINE_S)
            self.__exit__()
            raise RuntimeFailure(f"TextWorld cannot be used here: {problem}; run `r2v doctor`")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def play(self, game: Path) -> str:
        """Empty when the game can be played and won, else what is wrong with it."""
        if answer := self._answer(f"{json.dumps(str(game))}\n", GAME_DEADLINE_S):
            problem: str = json.loads(answer)
            return problem
        return f"cannot be played: {self._ending(GAME_DEADLINE_S)}; make or copy it again"

    def _answer(self, line: str, deadline_s: float) -> str:
        """The next line; empty when the process ended, of itself or at the deadline."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(deadline_s, self._give_up)
        watchdog.start()
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            return self._process.stdout.readline()
        finally:
            watchdog.cancel()

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _ending(self, deadline_s: float) -> str:
        if self._late:
            return f"no answer within {deadline_s:.0f} s"
        code = self._process.wait(timeout=deadline_s)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"the interpreter ended with exit code {code}" + (
            f" ({last_line[:200]})" if last_line else ""
        )


def _problem(game: str) -> str:
    """Follow the expert until the game is won. Empty when it is, else what is wrong."""
    from envs.textworld.env import TextWorldEnv

    env = TextWorldEnv(game, max_steps=_LONGEST, expert=True)
    observation, info = env.reset()
    if not observation:
        return "halts at once; make or copy it again"
    observation, *_ = env.step("look")
    won = over = False
    while not (won or over) and (action := env.expert_action()) is not None:
        observation, _, won, over, info = env.step(action)
    if "halted" in observation and info.get("stop_reason") != "won":
        return "halts in the middle; make or copy it again"
    if info.get("stop_reason") != "won":
        world = Path(game).with_suffix(".json").name
        return f"cannot be won as {world} says; is that the file of another game?"
    return ""


def _serve(answers: IO[str]) -> None:
    for line in sys.stdin:
        game = json.loads(line)
        problem = ""
        with (
            open(os.devnull, "w", encoding="utf-8") as silence,
            contextlib.redirect_stdout(silence),
        ):
            try:
                problem = _problem(game)
            except Exception as error:  # a boundary: the parent process says which file it was
                reason = " ".join(str(error).split())[:200]
                problem = (
                    f"cannot be played: {type(error).__name__}: {reason}; make or copy it again"
                )
        answers.write(json.dumps(problem) + "\n")
        answers.flush()


def _main() -> None:
    # The interpreter prints; the parent reads answers from the real stdout.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import envs.textworld.env  # noqa: F401 -- takes its time, which is not the first game's

    answers.write("ready\n")
    answers.flush()
    _serve(answers)


if __name__ == "__main__":
    _main()
