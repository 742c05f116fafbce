"""Generated games are a pure function of their specification: same spec, same bytes, one cached
file per spec.

TextWorld's generator depends on PYTHONHASHSEED, so games are made in worker processes that fix it.
A game is published by renaming it into place with its sha256 beside it; a cached game whose bytes
changed is made again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r2v_dist.errors import UsageError
from r2v_dist.seeding import rng_for, short_hash

Challenge = Literal["custom", "coin_collector", "treasure_hunter", "cooking"]
TextStyle = Literal["plain", "house"]
Range = tuple[int, int]


@dataclass(frozen=True)
class GameSpec:
    """Everything a game depends on. `settings` are the challenge's own, as sorted (name, value)
    pairs.
    """

    challenge: Challenge
    seed: int
    text: TextStyle
    settings: tuple[tuple[str, int | str], ...]

    @property
    def id(self) -> str:
        """Stable name of the game, also its file name in the cache."""
        return (
            f"{self.challenge}-{short_hash('textworld-1.7', self.text, self.seed, self.settings)}"
        )


@dataclass(frozen=True)
class GameFamily:
    """A distribution of games: each game draws its settings uniformly from the inclusive ranges by
    its own seed.
    """

    challenge: Challenge
    settings: tuple[tuple[str, Range | str], ...]
    text: TextStyle = "plain"
    weight: float = 1.0

    def draw(self, seed: int) -> GameSpec:
        """The family's game number `seed`."""
        rng = rng_for("textworld-game", self.challenge, self.settings, seed)
        settings = tuple(
            (name, value if isinstance(value, str) else rng.randint(*value))
            for name, value in self.settings
        )
        return GameSpec(self.challenge, rng.randrange(2**31), self.text, settings)


def draw_games(families: Sequence[GameFamily], split: str, count: int, seed: int) -> list[GameSpec]:
    """`count` different games of a split, families mixed by weight. Splits never share a game
    (checked by the caller).
    """
    games: dict[str, GameSpec] = {}
    for index in range(100 * count):
        rng = rng_for("textworld-split", split, seed, index)
        family = rng.choices(families, weights=[f.weight for f in families])[0]
        spec = family.draw(rng.randrange(2**31))
        games.setdefault(spec.id, spec)
        if len(games) == count:
            return list(games.values())
    raise UsageError(
        f"env.games: only {len(games)} different games exist where split {split} asks for "
        f"{count}; widen the ranges"
    )


def game_path(cache: Path, spec: GameSpec) -> Path:
    """Where the cache keeps the game."""
    return cache / f"{spec.id}.z8"


def is_cached(path: Path) -> bool:
    """Whether the game is there with the bytes it was published with."""
    digest = path.with_suffix(".sha256")
    if not (path.is_file() and path.with_suffix(".json").is_file() and digest.is_file()):
        return False
    return digest.read_text(encoding="utf-8") == sha256(path)


def sha256(path: Path) -> str:
    """Digest of a file, as the cache keeps it beside a game."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
