"""The time limit of a program. Invariant: a busy machine does not change how a run ends.

The limit is compared with the wall-clock time of the program less the time for which, as the kernel
reports, it was ready to run and waited for a processor. Waiting that a program can cause is never
credited: waiting for its own threads and processes, and waiting beyond a multiple of its work (it
may sleep and wake often). So a program ends at its limit on an idle machine, and after at most
`BACKSTOP` times its limit on a busy machine.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

BACKSTOP = 20.0
"""No program runs for longer than this multiple of its limit, however busy the machine, and at most
this number of seconds of waiting is credited for each second of work.
"""
_LOOK_AGAIN_S = 0.05
_START_S = 1.0
"""Waiting that is credited without work: a program that has just started has not worked yet."""
_USER = 11
_OF_CHILDREN = 13
"""Fields of /proc/PID/stat, counted after the command's name, that hold user time. The field after
each holds system time."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def kernel_reports_waiting() -> bool:
    """Whether this kernel reports how long processes wait. Where it does not, no waiting is
    credited.
    """
    schedule = Path("/proc/self/schedstat")
    children = Path("/proc/thread-self/children")
    return schedule.is_file() and children.is_file()


class Deadline:
    """Wall-clock budget of one program, which starts with this object. The program is the child of
    process `init` (`supervised`) or `init` itself. `cpu_s` gives the processor seconds of all
    processes of the program, or None where the kernel does not count them.
    """

    def __init__(
        self,
        wall_s: float,
        init: int,
        supervised: bool,
        cpu_s: Callable[[], float | None] | None = None,
    ) -> None:
        self._wall_s = wall_s
        self._init = init
        self._supervised = supervised
        self._cpu_s = cpu_s or (lambda: None)
        self._cpu_before_s = self._cpu_s()
        self._started = time.monotonic()

    def left(self) -> float:
        """Seconds after which to call again; 0 means that the program's time is over."""
        elapsed = time.monotonic() - self._started
        remaining_s = self._wall_s - elapsed
        if remaining_s > 0:
            return remaining_s
        if elapsed > BACKSTOP * self._wall_s:
            return 0.0
        credited = remaining_s + self._credit_s()
        return max(credited, _LOOK_AGAIN_S) if credited > 0 else 0.0

    def _credit_s(self) -> float:
        """Seconds that the program has waited for a processor that others used; 0 for a program
        that may be waiting for its own threads or processes.
        """
        # The program has just ended, or the kernel does not report waiting.
        with suppress(OSError, ValueError, IndexError):
            process = self._init
            if self._supervised:
                [process] = _children(process)
            threads = len(os.listdir(f"/proc/{process}/task"))
            if threads == 1 and not _children(process):
                worked_s, waited_s = _schedule(process)
                credit = waited_s - self._by_its_others_s(process, worked_s)
                return max(0.0, min(credit, _START_S + BACKSTOP * worked_s))
        return 0.0

    def _by_its_others_s(self, process: int, worked_s: float) -> float:
        """Processor seconds of the program's threads and processes other than its first thread,
        ended ones included: an upper bound on how long the first thread waited for them.
        """
        together_s = self._cpu_s()
        if together_s is not None and self._cpu_before_s is not None:
            return max(0.0, together_s - self._cpu_before_s - worked_s)
        # Without control groups, only processes that their parents waited for are counted.
        threads_s = _times(process, _USER) - worked_s
        children_s = _times(process, _OF_CHILDREN)
        return threads_s + children_s + _orphans_s(self._init, process)


def _children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text(encoding="utf-8").split()]


def _schedule(process: int) -> tuple[float, float]:
    """Seconds on a processor and seconds waiting for one, of the first thread."""
    worked, waited, _ = Path(f"/proc/{process}/schedstat").read_text(encoding="utf-8").split()
    return int(worked) / 1e9, int(waited) / 1e9


def _times(process: int, field: int) -> float:
    """User and system seconds of all threads, or of the children that were waited for."""
    line = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    fields = line.rpartition(")")[2].split()
    user_ticks = int(fields[field])
    system_ticks = int(fields[field + 1])
    return (user_ticks + system_ticks) * _TICK_S


def _orphans_s(init: int, process: int) -> float:
    """Seconds of the processes whose parents have ended: the supervisor waits for them."""
    return _times(init, _OF_CHILDREN) if init != process else 0.0
