"""When a run's engines, env runners and learners were there, and what they asked for: one line as a
group of processes begins, one when it first answers and one as it ends.

Invariant: lines are only appended, each whole. What its driver did not live to end has no end.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2v_dist import files

NAME = "timeline.jsonl"
"""In the run directory."""


@dataclass(frozen=True)
class Span:
    """A group of `count` processes that asked for so many cores and GPUs together, from `begun` to
    `ended` (None: its driver ended first); `ready` is when it first answered, None where that is
    not known. Times are seconds since 1970.
    """

    lane: str
    count: int
    cpus: float
    gpus: float
    begun: float
    driver: int
    ready: float | None = None
    ended: float | None = None


class Timeline:
    """Written by the driver alone."""

    def __init__(self, run: Path) -> None:
        self._path = _path(run)
        self._open: set[str] = set()
        self._ready: set[str] = set()

    def begin(self, lane: str, count: int, cpus: float = 0.0, gpus: float = 0.0) -> None:
        """The processes of a lane begin. A lane has one group at a time."""
        self.end(lane)
        self._open.add(lane)
        self._write("begin", lane, {"count": count, "cpus": cpus, "gpus": gpus})

    def ready(self, lane: str) -> None:
        """They answer; told once."""
        if lane in self._open - self._ready:
            self._ready.add(lane)
            self._write("ready", lane)

    def end(self, lane: str) -> None:
        """They end, where they are there."""
        if lane in self._open:
            self._open.remove(lane)
            self._ready.discard(lane)
            self._write("end", lane)

    def end_all(self) -> None:
        """The driver ends."""
        for lane in sorted(self._open):
            self.end(lane)

    def _write(self, event: str, lane: str, details: dict[str, Any] | None = None) -> None:
        row = {"event": event, "lane": lane, "time": time.time(), "driver": os.getpid()}
        files.append_json_line(self._path, row | (details or {}))


def spans(run: Path) -> list[Span]:
    """What a run's timeline says, in order of beginning."""
    open_: dict[tuple[str, int], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for row in files.read_json_lines(_path(run)):
        of = row["lane"], row["driver"]
        if row["event"] == "begin":
            span = {name: row[name] for name in ("lane", "count", "cpus", "gpus", "driver")}
            open_[of] = span | {"begun": row["time"]}
            rows.append(open_[of])
        elif of in open_:
            open_[of]["ready" if row["event"] == "ready" else "ended"] = row["time"]
    return [Span(**span) for span in rows]


def _path(run: Path) -> Path:
    return run / NAME
