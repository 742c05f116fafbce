"""Writes a stage's rollouts: an episode is committed once, whatever is retried or delivered twice.

A collector writes under an epoch, which it shares with collectors of other tasks at most, and only
while no later one is taken. So a collector that was given up but still runs, on a machine that
nobody reaches any more, is refused.
It keeps at most one shard's worth of episodes in memory; callers wait while a shard is written
(back-pressure).
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors import metrics
from actors.metrics import OFF, Meter
from r2v_dist.episodes import Episode
from r2v_dist.errors import StoreFailure, explain
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.fence import Fence
from r2v_dist.storage.key_set import KeySet


@dataclass(frozen=True)
class StageFolder:
    """Where a stage's shards go. One is written with so many episodes, or with what there is so
    many seconds after the last. Without a fence nobody else may write there.
    """

    path: Path
    shard_episodes: int
    shard_seconds: float
    fence: Fence | None = None


class Collector:
    """Writes one stage's shards.

    `committed` are the keys of what is there already; without them they are read.
    """

    def __init__(
        self,
        folder: StageFolder,
        committed: KeySet | None = None,
        meter: Meter = OFF,
    ) -> None:
        self._folder = folder
        self._meter = meter
        # Left as they are: several collectors of one machine share them.
        self._before = rollout_store.committed_keys(folder.path) if committed is None else committed
        self._keys = KeySet()
        self._shards = 0
        self._buffer: list[Episode] = []
        self._committed_at = time.monotonic()

    def add(self, episodes: Sequence[Episode]) -> int:
        """Take finished episodes and return how many were new. Writes a shard when one is full or
        the last is old enough: where units take long, each is committed as it comes.

        Raises Superseded where a later epoch is taken.
        """
        new_episodes = [episode for episode in episodes if self._is_new(str(episode.key))]
        self._keys.update(str(episode.key) for episode in new_episodes)
        self._buffer += new_episodes
        if (
            len(self._buffer) >= self._folder.shard_episodes
            or time.monotonic() - self._committed_at > self._folder.shard_seconds
        ):
            self.flush()
        self._meter.set(metrics.BUFFERED, len(self._buffer), stage=self._folder.path.name)
        return len(new_episodes)

    def _is_new(self, key: str) -> bool:
        return key not in self._keys and key not in self._before

    def flush(self) -> int:
        """Commit what is buffered; returns how many shards this collector has committed.

        Raises Superseded where a later epoch is taken.
        """
        if self._buffer:
            fence = self._folder.fence
            if fence is not None:
                fence.require()
            epoch = 0 if fence is None else fence.epoch
            started_at = time.monotonic()
            shard = rollout_store.commit(self._folder.path, self._shards, self._buffer, epoch)
            self._record(shard, time.monotonic() - started_at)
            self._buffer = []
            self._committed_at = time.monotonic()
            self._shards += 1
        return self._shards

    def _record(self, shard: Path, seconds: float) -> None:
        stage = self._folder.path.name
        self._meter.observe(metrics.COMMIT_SECONDS, seconds, stage=stage)
        self._meter.set(metrics.BUFFERED, 0, stage=stage)
        self._meter.add(metrics.COMMITTED, len(self._buffer), stage=stage)
        if self._meter.on:
            self._meter.add(metrics.COMMITTED_BYTES, shard.stat().st_size, stage=stage)


class CollectorActor:
    """The collectors of one stage after the other, in a process that is started once."""

    def __init__(self, meter: Meter = OFF) -> None:
        self._meter = meter

    def open(self, folder: StageFolder, committed: KeySet | None = None) -> None:
        """Begin a stage, or go on with one."""
        with _named(folder.path):
            self._collector = Collector(folder, committed, self._meter)
        self._folder = folder.path

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
