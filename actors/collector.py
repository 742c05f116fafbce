"""Writes a stage's rollouts: an episode is committed once, whatever is retried or delivered twice.

A shard's number is taken by one writer alone, and a writer takes a number only once it knows the
keys of all shards below it. So a second writer, on another machine where no lock reaches it, costs
work but no row. The collector keeps at most one shard's worth of episodes in memory; callers wait
while a shard is written (back-pressure).
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from r2v_dist.episodes import Episode
from r2v_dist.errors import StoreFailure, explain
from r2v_dist.storage import rollouts as rollout_store


class Collector:
    """Writes one stage's shards."""

    def __init__(self, folder: Path, shard_episodes: int, shard_seconds: float) -> None:
        self._folder = folder
        self._shard_episodes = shard_episodes
        self._shard_seconds = shard_seconds
        shards = rollout_store.shards(folder)
        self._keys = rollout_store.keys_of(shards)
        self._next = rollout_store.next_index(shards)
        self._buffer: list[Episode] = []
        self._oldest = time.monotonic()

    def add(self, episodes: Sequence[Episode]) -> int:
        """Take finished episodes and return how many were new. Writes a shard when one is full or
        old enough.
        """
        new = [episode for episode in episodes if str(episode.key) not in self._keys]
        if new and not self._buffer:
            self._oldest = time.monotonic()
        self._keys.update(str(episode.key) for episode in new)
        self._buffer += new
        if (
            len(self._buffer) >= self._shard_episodes
            or time.monotonic() - self._oldest > self._shard_seconds
        ):
            self.flush()
        return len(new)

    def flush(self) -> int:
        """Commit what is buffered; returns the number that the next shard will have."""
        while self._buffer:
            try:
                rollout_store.commit(self._folder, self._next, self._buffer)
                self._buffer = []
            except FileExistsError:
                self._yield_to_other()
            self._next += 1
        return self._next

    def _yield_to_other(self) -> None:
        """Another writer has taken the number: drop what its shard already holds."""
        taken = rollout_store.keys_of([self._folder / f"{self._next:06d}.arrow"])
        self._keys |= taken
        self._buffer = [episode for episode in self._buffer if str(episode.key) not in taken]


class CollectorActor:
    """The collectors of one stage after the other, in a process that is started once."""

    def open(self, folder: Path, shard_episodes: int, shard_seconds: float) -> None:
        """Begin a stage, or go on with one."""
        with _named(folder):
            self._collector = Collector(folder, shard_episodes, shard_seconds)
        self._folder = folder

    def add(self, episodes: Sequence[Episode]) -> int:
        """As `Collector.add`, for the stage that was opened last."""
        with _named(self._folder):
            return self._collector.add(episodes)

    def flush(self) -> int:
        """As `Collector.flush`."""
        with _named(self._folder):
            return self._collector.flush()


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """A boundary: what the file system refuses is no fault of the unit that delivers."""
    try:
        yield
    except OSError as error:
        raise StoreFailure(f"episodes cannot be written to {folder}: {explain(error)}") from None
