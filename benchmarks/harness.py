"""How two sides are compared: in turn (A B A B ...), after a warm-up, by the median over pairs.

Neighbouring runs meet the same load of the machine, so a pair's quotient is steadier than either
time. A side that did not do the same work raises `Mismatch`; a wrong number is never printed.
"""

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def worker_niceness() -> int:
    """That of Ray's workers, which the reference shares."""
    return int(os.environ.get("RAY_worker_niceness", "15"))  # noqa: SIM112 (Ray's own name)


class Mismatch(Exception):
    """The two sides did not do the same work, so their times cannot be compared."""


@dataclass(frozen=True)
class Spent:
    """What one side took. `cpu_s` counts this process only, and is steadier than `wall_s` while
    other work runs.
    """

    wall_s: float
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """Runs of both sides; the i-th of each were neighbours."""

    ours: list[Spent]
    reference: list[Spent]

    @property
    def wall_ratio(self) -> float:
        """How many times faster ours is, by the clock."""
        return statistics.median(
            b.wall_s / a.wall_s for a, b in zip(self.ours, self.reference, strict=True)
        )

    @property
    def cpu_ratio(self) -> float:
        """How many times less processor time ours takes."""
        return statistics.median(
            b.cpu_s / a.cpu_s for a, b in zip(self.ours, self.reference, strict=True)
        )


def measure(work: Callable[[], object]) -> Spent:
    """Time one run; earlier garbage is collected first, so that neither side pays for
    the other's.
    """
    gc.collect()
    wall = time.perf_counter()
    cpu = time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def processor_s(pid: int) -> float:
    """Processor time that a process has taken so far, to the nanosecond: the ticks of psutil and of
    /proc are 10 ms, in which a short block reads as nothing. Raises OSError once it is gone.

    Source: Linux's `clock_getcpuclockid(3)`, which numbers a process's clock like this.
    """
    return time.clock_gettime(~pid << 3 | 2)


def interleave(ours: Callable[[], Spent], reference: Callable[[], Spent], repeats: int) -> Pairs:
    """One warm-up of each side, then `repeats` pairs."""
    ours()
    reference()
    pairs = Pairs([], [])
    for number in range(1, repeats + 1):
        pairs.ours.append(ours())
        pairs.reference.append(reference())
        mine = pairs.ours[-1]
        other = pairs.reference[-1]
        ours_took = f"ours {mine.wall_s:.3g} s ({mine.cpu_s:.2f} s of processor)"
        reference_took = f"reference {other.wall_s:.3g} s ({other.cpu_s:.2f})"
        progress = f"pair {number} of {repeats}: {ours_took}, {reference_took}"
        print(progress, file=sys.stderr, flush=True)
    return pairs


def median_wall(runs: Sequence[Spent]) -> float:
    """Median seconds by the clock."""
    return statistics.median(run.wall_s for run in runs)


def same(what: str, ours: object, reference: object) -> None:
    """Raises Mismatch unless both sides agree."""
    if ours != reference:
        raise Mismatch(f"{what}: ours {ours!r}, reference {reference!r}")


def publish(
    name: str, reference: str, ratio: float, table: Sequence[tuple[str, str, str]], **more: Any
) -> None:
    """Print the table (measure, ours, reference) and then, as the last line, the result as JSON."""
    rows = [(name, "ours", reference), *table, ("ratio (higher is better)", f"{ratio:.2f}", "")]
    name_width = max(len(measure) for measure, _, _ in rows)
    ours_width = max(len(ours) for _, ours, _ in rows)
    for measure, ours, theirs in rows:
        print(f"{measure:<{name_width}}  {ours:>{ours_width}}  {theirs}".rstrip())
    result: Mapping[str, Any] = {"name": name, "ratio": ratio, "reference": reference, **more}
    print(json.dumps({key: _rounded(value) for key, value in result.items()}), flush=True)


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
