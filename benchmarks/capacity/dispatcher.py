"""What the dispatcher's own loop costs, by how much there is: with runners that finish at once, and
without Ray.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from actors.collector import StageFolder
from actors.env_runner import Deployment
from actors.nodes import Nodes
from actors.quarantine import Quarantine
from actors.stage_loop import StageLoop
from actors.totals import Totals
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.episodes import Arm, Episode, Task, Unit
from r2v_dist.storage.key_set import KeySet

_ARM = Arm("slm_only", None, "p", "t", 0)
_LOADS = ((10, 4, 1), (10, 4, 8), (10, 16, 1), (100, 4, 1), (100, 4, 16), (100, 16, 4), (400, 4, 8))
"""Runners, units on each, and reports that are there at each turn."""
_TURNS = 40
_RUNNERS_A_NODE = 16


@dataclass(frozen=True)
class LoopCosts:
    """Seconds of a turn of the loop: fixed, for a runner, for a unit under way; and for a report
    that is there: fixed, and for a runner.
    """

    turn: float
    runner: float
    under_way: float
    report: float
    report_runner: float


@dataclass
class _Finishing:
    """Runners of which so many units are finished whenever the loop looks."""

    members: list[int]
    reports: int
    nodes: Nodes = field(default_factory=lambda: Nodes(rest_s=60))
    looked: list[tuple[float, float]] = field(default_factory=list)
    """Processor time when the loop came and went."""
    given: int = 0

    def where(self, runner: int) -> str:
        return f"node-{runner // _RUNNERS_A_NODE}"

    def deploy(self, deployment: Deployment) -> None: ...

    def open(self, folder: StageFolder, committed: KeySet | None = None) -> None: ...

    def deliver(self, episodes: Sequence[Episode]) -> None: ...

    def flush(self) -> None: ...

    def drop_collectors(self) -> None: ...

    def start(self, runner: int, unit: Unit) -> int:
        self.given += 1
        return self.given

    def finished(self, under_way: Collection[int], timeout_s: float) -> Sequence[int]:
        came = time.process_time()
        first = list(under_way)[: self.reports]
        self.looked.append((came, time.process_time()))
        return first

    def report(self, under_way: int) -> Totals:
        return Totals(units=1, episodes=1, steps=20)

    def replace(self, runner: int, avoid: Collection[str] = (), on: str = "") -> None: ...

    def last_words(self) -> str:
        return ""


def measure_loop(loads: Sequence[tuple[int, int, int]] = _LOADS) -> LoopCosts:
    """Turns under several loads, and the costs that explain them best; none is negative."""
    rows = []
    seconds = []
    for size, in_flight, reports in loads:
        rows.append([1.0, size, size * in_flight, reports, reports * size])
        seconds.append(_turn_s(size, in_flight, reports))
    # Each turn counts the same, however long it is.
    weights = 1.0 / np.asarray(seconds)
    found = not_negative(np.asarray(rows) * weights[:, None], np.ones(len(rows)))
    return LoopCosts(*map(float, found))


def _turn_s(size: int, in_flight: int, reports: int) -> float:
    runners = _Finishing(list(range(size)), reports)
    tasks = [Task(f"t{number}", "test", "none", ()) for number in range(64)]
    count = size * in_flight + reports * _TURNS
    units = [Unit("evaluate", "h", tasks[n % 64], n // 64, 0, (_ARM,)) for n in range(count)]
    config = ClusterConfig(runners=size, in_flight=in_flight)
    quarantine = Quarantine(Path("nowhere"), runners, 0)
    StageLoop(units, runners, config, quarantine, lambda *_: None).run()
    looked = runners.looked[2:_TURNS]
    turns = [came - went for (_, went), (came, _) in pairwise(looked)]
    return float(np.median(turns))


def not_negative(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Least squares without negative parts: what would be negative is left out."""
    kept = list(range(rows.shape[1]))
    while True:
        solved = np.linalg.lstsq(rows[:, kept], wanted, rcond=None)[0]
        if (solved >= 0).all():
            found = np.zeros(rows.shape[1])
            found[kept] = solved
            return found
        kept.pop(int(solved.argmin()))
