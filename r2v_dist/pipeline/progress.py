"""Progress on the terminal: a live line where there is one to draw on, else a plain line now and
then.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.metrics_log import last_row

_AT_ONCE_S = 2.0


class Progress:
    """One stage's progress. `update` may be called as often as one likes; it draws at most a few
    times a second.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._live = sys.stderr.isatty()
        self._started = time.monotonic()
        self._next = self._started + (0.0 if self._live else 10.0)
        self._width = 0
        self._earlier: int | None = None

    def update(self, done: int, total: int, detail: str = "", force: bool = False) -> None:
        """Show `done` of `total` and the time that is left at the pace of this attempt."""
        now = time.monotonic()
        if self._earlier is None:
            # What is done at once was done by an attempt before this one.
            self._earlier = done if now - self._started < _AT_ONCE_S else 0
        if now < self._next and not force:
            return
        self._next = now + (0.25 if self._live else 10.0)
        elapsed = now - self._started
        done_here = done - self._earlier
        eta = (
            f"ETA {elapsed / done_here * (total - done):.0f} s"
            if done_here > 0 and done < total
            else f"{elapsed:.0f} s"
        )
        line = f"[{self._stage}] {done}/{total}  {detail}  {eta}".replace("    ", "  ")
        if self._live:
            sys.stderr.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def close(self, summary: str) -> None:
        """Replace the live line by what came of the stage."""
        elapsed = time.monotonic() - self._started
        line = f"[{self._stage}] {summary}  ({elapsed:.0f} s)"
        sys.stderr.write(("\r" + line.ljust(self._width) if self._live else line) + "\n")
        sys.stderr.flush()


@contextlib.contextmanager
def watched(
    metrics: Path, progress: Progress, tell: Callable[[dict[str, Any]], None]
) -> Iterator[None]:
    """Show the last row of a learner's metrics while the block runs, and tell it."""
    end = threading.Event()

    def watch() -> None:
        while not end.wait(0.5):
            if row := last_row(metrics):
                tell(row)
                progress.update(row["step"], row["of"], _learned(row))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        end.set()
        watcher.join()


def _learned(row: dict[str, Any]) -> str:
    """What a row of a learner's metrics says, with tokens/s where tokens are counted."""
    parts = [row.get("router", ""), f"loss {row['loss']:.4f}"]
    if row.get("num_tokens") and row.get("seconds"):
        parts.append(f"{row['num_tokens'] / row['seconds']:.0f} tokens/s")
    return " ".join(filter(None, parts))


@dataclass(frozen=True)
class SuccessSummary:
    """How a stage went, for the terminal."""

    episodes: int
    text: str


def success_summary(folder: Path) -> SuccessSummary:
    """Episodes and success, clean and perturbed apart."""
    table = rollout_store.read_outcomes(folder, ["t", "z", "router", "success"])
    routers = pc.unique(table["router"]).to_pylist()
    parts = []
    for router in sorted(routers):
        episodes = table.filter(pc.equal(table["router"], router))
        clean = episodes.filter(pc.is_null(episodes["z"]))["success"].to_numpy()
        perturbed = episodes.filter(pc.is_valid(episodes["z"]))["success"].to_numpy()
        values = [
            f"{label} {v.mean():.0%}"
            for label, v in (("clean", clean), ("perturbed", perturbed))
            if len(v)
        ]
        if router in ("slm_only", "teacher_only") and values:
            parts.append(f"{router} {', '.join(values)}")
    return SuccessSummary(table.num_rows, "; ".join(parts))
