"""The only writer of a stage's rollouts: an episode is committed once, whatever is retried or delivered twice.

It keeps at most one shard's worth of episodes in memory; callers wait while a shard is written (back-pressure).
"""

import time
from collections.abc import Sequence
from pathlib import Path

from r2v_dist import rollout_store
from r2v_dist.episodes import Episode


class Collector:
    """Writes one stage's shards."""

    def __init__(self, folder: Path, shard_episodes: int, shard_seconds: float) -> None:
        self._folder, self._shard_episodes, self._shard_seconds = folder, shard_episodes, shard_seconds
        self._keys = rollout_store.committed_keys(folder)
        self._next = len(rollout_store.shards(folder))
        self._buffer: list[Episode] = []
        self._oldest = time.monotonic()

    def add(self, episodes: Sequence[Episode]) -> int:
        """Take finished episodes and return how many were new. Writes a shard when one is full or old enough."""
        new = [episode for episode in episodes if str(episode.key) not in self._keys]
        if new and not self._buffer:
            self._oldest = time.monotonic()
        self._keys.update(str(episode.key) for episode in new)
        self._buffer += new
        if len(self._buffer) >= self._shard_episodes or time.monotonic() - self._oldest > self._shard_seconds:
            self.flush()
        return len(new)

    def flush(self) -> int:
        """Commit what is buffered; returns the number of shards."""
        if self._buffer:
            rollout_store.commit(self._folder, self._next, self._buffer)
            self._next += 1
            self._buffer = []
        return self._next


class CollectorActor:
    """The collectors of one stage after the other, in a process that is started once."""

    def open(self, folder: Path, shard_episodes: int, shard_seconds: float) -> None:
        """Begin a stage, or go on with one."""
        self._collector = Collector(folder, shard_episodes, shard_seconds)

    def add(self, episodes: Sequence[Episode]) -> int:
        """As `Collector.add`, for the stage that was opened last."""
        return self._collector.add(episodes)

    def flush(self) -> int:
        """As `Collector.flush`."""
        return self._collector.flush()
