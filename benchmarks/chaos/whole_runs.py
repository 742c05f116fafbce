"""Whole runs of the command line whose processes are killed: at random times, and while the driver
stands still between two stages.

Invariant: a run goes on to its end, whatever was killed, and its outcomes are compared with those
of a run that nobody disturbed.
"""

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from benchmarks.chaos.accounts import Accounts, Kill, Outcomes, compare, outcomes
from benchmarks.chaos.faulty_run import BOUNDARIES, NEVER, Fault, start_faulty
from benchmarks.chaos.processes import Family, stopped
from benchmarks.harness import Mismatch
from r2v_dist.storage import fence as fences

LOOK_S = 0.1
END_S = 900.0
"""Longest life of one driver."""
End = Callable[[list[int]], None]
"""Ends one of some processes."""


class Driver:
    """A driver that stands still between two stages, and what it says."""

    def __init__(self, arguments: Sequence[str], run_dir: Path, fault: Fault = BOUNDARIES) -> None:
        self.run_dir = run_dir
        self.began = time.monotonic()
        self.process = start_faulty(fault, arguments, run_dir)
        self.lines: list[str] = []
        for stream in (self.process.stderr, self.process.stdout):
            assert stream is not None
            threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    @property
    def ended(self) -> bool:
        """Whether it is gone. Raises Mismatch where it is too old."""
        if time.monotonic() - self.began > END_S:
            self.process.kill()
            raise Mismatch(f"a driver did not end within {END_S:g} s: {self.lines[-5:]}")
        return self.process.poll() is not None

    @property
    def at_boundary(self) -> bool:
        """Whether it stands still."""
        return stopped(self.process.pid)

    def go_on(self) -> None:
        """To the next boundary."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def require_success(self) -> None:
        """Raises Mismatch where it failed."""
        if self.process.wait(60):
            said = "\n".join(self.lines[-30:])
            raise Mismatch(f"a driver ended with {self.process.returncode}:\n{said}")

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append(line.rstrip())


def stage_of(run_dir: Path) -> str:
    """The stage that was begun last; empty before the first."""
    begun = list((run_dir / "stages").glob("*/attempts.jsonl"))
    last = max(begun, key=lambda path: path.stat().st_mtime, default=None)
    return last.parent.name if last else ""


@dataclass
class Killer:
    """Kills one process of a target after the other, each once all are back.

    `kill` ends one of the processes. At most `spread_s` seconds pass before it, at random.
    """

    target: str
    kill: End
    rng: random.Random
    spread_s: float
    most: int
    watched: str = ""
    """The processes that are back when the target is; empty for those of the target."""
    noticed: bool = False
    """Whether somebody tells of restarts (`notice`); the next kill then waits for that too."""
    until: float = math.inf
    """When the time for kills is over, by the monotonic clock."""
    kills: list[Kill] = field(default_factory=list)
    met: bool = False
    """Whether this run has had any of the processes."""
    _pending: Kill | None = None
    _were: list[int] = field(default_factory=list)
    _due: float | None = None

    @property
    def done(self) -> bool:
        """Whether there are no more kills."""
        return len(self.kills) >= self.most or time.monotonic() > self.until

    def look(self, pids: list[int], stage: str) -> None:
        """Take note of who is back, and kill where it is time to."""
        now = time.monotonic()
        self.met |= bool(pids)
        if self._pending is not None:
            back = len(pids) >= len(self._were) and set(pids) != set(self._were)
            if back and self._pending.back_s is None:
                self._pending.back_s = now - self._pending.at
            if back and (self._pending.noticed_s is not None or not self.noticed):
                self._pending = None
            return
        if not pids or self.done:
            return
        if self._due is None:
            self._due = now + self.rng.uniform(0, self.spread_s)
        if now >= self._due:
            self._strike(pids, "random", stage)

    def at_boundary(self, pids: list[int], stage: str) -> None:
        """Kill one between two stages, whoever is still awaited unless that is to be noticed."""
        self.met |= bool(pids)
        if pids and not self.done and not (self.noticed and self._pending):
            self._strike(pids, "boundary", stage)

    def notice(self, restarts: int) -> None:
        """Take note of how many restarts are known to whoever watches the target."""
        for kill in self.kills[:restarts]:
            if kill.noticed_s is None:
                kill.noticed_s = time.monotonic() - kill.at

    def forget(self) -> None:
        """The run is over, and nobody comes back any more."""
        self._pending = self._due = None
        self.met = False

    def _strike(self, pids: list[int], moment: str, stage: str) -> None:
        self._were = list(pids)
        self._due = None
        self._pending = Kill(self.target, moment, stage, time.monotonic())
        self.kill(pids)
        self.kills.append(self._pending)


def kill_one(rng: random.Random) -> End:
    """Kills any of the processes."""
    return lambda pids: os.kill(rng.choice(pids), signal.SIGKILL)


def storm(
    name: str,
    killers: Sequence[Killer],
    arguments: Sequence[str],
    calm: Outcomes,
    folder: Path,
    family: Family,
) -> tuple[Accounts, int]:
    """As many runs as it takes to kill often enough; their accounts and number."""
    accounts = Accounts()
    runs = 0
    while not all(killer.done for killer in killers):
        run_dir = folder / f"{name}-{runs}"
        driver = Driver(arguments, run_dir)
        while not driver.ended:
            time.sleep(LOOK_S)
            between = driver.at_boundary
            for killer in killers:
                look = killer.at_boundary if between else killer.look
                look(family.of(killer.watched or killer.target), stage_of(run_dir))
            if between:
                driver.go_on()
        driver.require_success()
        if not any(killer.met for killer in killers):
            raise Mismatch(f"{name}: a run ended and nothing was there to kill")
        for killer in killers:
            killer.forget()
        accounts += compare(calm, outcomes(run_dir))
        runs += 1
    return accounts, runs


def driver_storm(
    most: int,
    rng: random.Random,
    arguments: Sequence[str],
    calm: Outcomes,
    folder: Path,
    spread_s: float,
    until: float,
) -> tuple[list[Kill], Accounts, int]:
    """Kills drivers, half of them between two stages, and runs the same command again."""
    kills: list[Kill] = []
    accounts = Accounts()
    runs = 0
    while len(kills) < most and time.monotonic() < until:
        run_dir = folder / f"driver-{runs}"
        pending: Kill | None = None
        while True:
            driver = Driver(arguments, run_dir)
            wanted = len(kills) < most and time.monotonic() < until
            killed = _live(driver, pending, rng, spread_s if wanted else None)
            if killed is None:
                break
            pending = killed
            kills.append(killed)
        driver.require_success()
        accounts += compare(calm, outcomes(run_dir))
        runs += 1
    return kills, accounts, runs


def _live(
    driver: Driver, before: Kill | None, rng: random.Random, spread_s: float | None
) -> Kill | None:
    """The life of one driver, which ends with a kill unless `spread_s` is None or the run is over
    sooner.
    """
    epoch = fences.latest(driver.run_dir)
    stops = rng.choice((1, 2)) if rng.random() < 0.5 else None
    due = driver.began + rng.uniform(0, spread_s) if spread_s and stops is None else None
    while not driver.ended:
        time.sleep(LOOK_S)
        if before and before.back_s is None and fences.latest(driver.run_dir) > epoch:
            before.back_s = time.monotonic() - driver.began
        moment = ""
        if driver.at_boundary:
            stops = stops - 1 if stops is not None else None
            if stops == 0 and spread_s:
                moment = "boundary"
            else:
                driver.go_on()
        elif due is not None and time.monotonic() > due:
            moment = "random"
        if moment:
            driver.kill()
            return Kill("driver", moment, stage_of(driver.run_dir), time.monotonic())
    return None


def undisturbed(arguments: Sequence[str], run_dir: Path) -> Outcomes:
    """The outcomes of a run that nobody disturbs. One that has ended there is not run again."""
    ended = run_dir.with_suffix(".ended")
    if not ended.is_file():
        driver = Driver(arguments, run_dir, NEVER)
        while not driver.ended:
            time.sleep(LOOK_S)
        driver.require_success()
        ended.write_text(f"{time.monotonic() - driver.began:.0f} s\n", encoding="utf-8")
    return outcomes(run_dir)
