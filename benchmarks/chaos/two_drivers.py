"""A second driver on the run directory of one that works, or that was stopped and then goes on.

Invariant: a driver that works is never disturbed; one that is superseded writes nothing more, and
neither do its runners and its collector, which go on while it stands still.
"""

import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.accounts import Accounts, Outcomes, compare, outcomes
from benchmarks.chaos.faulty_run import NEVER
from benchmarks.chaos.whole_runs import LOOK_S, Driver
from benchmarks.harness import Mismatch
from r2v_dist.storage import fence as fences

_REFUSED = "is at work there"
_SUPERSEDED = "has taken over"
_STARTS_S = 180.0


@dataclass(frozen=True)
class Rivals:
    """Second drivers: those that were refused, and those that took over from one that stood."""

    refused: int
    superseded: int
    accounts: Accounts
    runs: int


def rivals(
    most: int,
    rng: random.Random,
    arguments: Sequence[str],
    calm: Outcomes,
    folder: Path,
    until: float,
) -> Rivals:
    """Runs with second drivers, every third of which takes over."""
    refused = superseded = runs = 0
    accounts = Accounts()
    while refused + superseded < most and time.monotonic() < until:
        run_dir = folder / f"second-{runs}"
        driver = Driver(arguments, run_dir)
        due = _soon(rng)
        while not driver.ended:
            time.sleep(LOOK_S)
            between = driver.at_boundary
            at_work = fences.latest(run_dir) > 0
            wanted = at_work and refused + superseded < most and time.monotonic() < until
            if wanted and (between or time.monotonic() > due):
                if (refused + superseded) % 3 == 2:
                    driver = _take_over(driver, arguments)
                    superseded += 1
                    due = _soon(rng)
                    continue
                refused += _is_refused(driver, arguments)
                due = _soon(rng)
            if between:
                driver.go_on()
        driver.require_success()
        accounts += compare(calm, outcomes(run_dir))
        runs += 1
    return Rivals(refused, superseded, accounts, runs)


def _soon(rng: random.Random) -> float:
    return time.monotonic() + rng.uniform(2, 12)


def _is_refused(first: Driver, arguments: Sequence[str]) -> bool:
    """Whether a second driver was there in time to be refused."""
    rival = Driver(arguments, first.run_dir, NEVER)
    code = rival.process.wait(_STARTS_S)
    if code == 0 and first.ended:
        return False
    if code != 2 or not any(_REFUSED in line for line in rival.lines):
        raise Mismatch(f"a second driver ended with {code}: {rival.lines[-5:]}")
    return True


def _take_over(first: Driver, arguments: Sequence[str]) -> Driver:
    """Stop the first driver, let its lease run out, and have it wake up beside a second one."""
    run_dir = first.run_dir
    first.process.send_signal(signal.SIGSTOP)
    epoch = fences.latest(run_dir)
    os.utime(fences.path_of(run_dir, epoch), (0, 0))
    second = Driver(arguments, run_dir)
    deadline = time.monotonic() + _STARTS_S
    while fences.latest(run_dir) == epoch:
        if second.ended or time.monotonic() > deadline:
            raise Mismatch(f"a second driver did not take over: {second.lines[-5:]}")
        time.sleep(LOOK_S)
    first.go_on()
    code = first.process.wait(_STARTS_S)
    if code != 1 or not any(_SUPERSEDED in line for line in first.lines):
        raise Mismatch(f"a superseded driver ended with {code}: {first.lines[-5:]}")
    return second
