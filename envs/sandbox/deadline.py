"""How long a program may go on: the time in which it was ready to run and got no processor is not
its own.

A busy machine must not change how a run ends. The limit on the clock is compared with the program's
own time: that of the clock less what the kernel says it has waited for a processor. What a program
can bring about is never credited: waiting for its own threads and processes, and waiting in which
it hardly wanted to work (it may sleep and wake as often as it likes). So on an idle machine a
program ends at its limit, and on a busy one at most after `BACKSTOP` times as long. Each such end
is the program's.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

BACKSTOP = 20.0
"""However busy the machine, by the clock no program goes on for longer than so many times its
limit, and for each second of a processor it is credited at most so many seconds of waiting.
"""
_LOOK_AGAIN_S = 0.05
_START_S = 1.0
"""Of waiting that is credited without work: a program that has just begun has not worked yet."""
_USER = 11
_OF_CHILDREN = 13
"""Where a line of /proc/PID/stat, behind the command's name, has processor time: each time two
fields."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def told() -> bool:
    """Whether this kernel says how long processes wait; without it time is that of the clock."""
    own = Path("/proc/self/schedstat")
    thread = Path("/proc/thread-self/children")
    return own.is_file() and thread.is_file()


class Patience:
    """Counts from its creation for one program: the child of process `init`, or `init` itself where
    nothing supervises it. `cpu_s` gives the processor seconds of all its processes, or None where
    nobody counts them.
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
        """Seconds after which to ask again; nothing left means that the program's time is over."""
        elapsed = time.monotonic() - self._started
        left = self._wall_s - elapsed
        if left > 0:
            return left
        if elapsed > BACKSTOP * self._wall_s or (left := left + self._credit_s()) <= 0:
            return 0.0
        return max(left, _LOOK_AGAIN_S)

    def _credit_s(self) -> float:
        """Seconds that the program has waited for a processor that others used; 0 for one that may
        be waiting for its own threads or processes.
        """
        with suppress(
            OSError, ValueError, IndexError
        ):  # it has just ended, or the kernel does not tell
            process = self._init
            if self._supervised:
                [process] = _children(process)
            if not _children(process) and len(os.listdir(f"/proc/{process}/task")) == 1:
                worked_s, waited_s = _schedule(process)
                credit = waited_s - self._by_its_others_s(process, worked_s)
                return max(0.0, min(credit, _START_S + BACKSTOP * worked_s))
        return 0.0

    def _by_its_others_s(self, process: int, worked_s: float) -> float:
        """Processor seconds that went to threads and processes of the program other than its first
        thread, those that are gone included: as long may it have waited for them.
        """
        together_s = self._cpu_s()
        if together_s is not None and self._cpu_before_s is not None:
            return max(0.0, together_s - self._cpu_before_s - worked_s)
        # Without control groups: the ones that somebody waited for.
        return (
            _times(process, _USER)
            - worked_s
            + _times(process, _OF_CHILDREN)
            + _orphans_s(self._init, process)
        )


def _children(process: int) -> list[int]:
    return [
        int(number)
        for number in Path(f"/proc/{process}/task/{process}/children")
        .read_text(encoding="utf-8")
        .split()
    ]


def _schedule(process: int) -> tuple[float, float]:
    """Seconds on a processor and seconds waiting for one, of the first thread."""
    worked, waited, _ = Path(f"/proc/{process}/schedstat").read_text(encoding="utf-8").split()
    return int(worked) / 1e9, int(waited) / 1e9


def _times(process: int, field: int) -> float:
    """User and system seconds of all threads, or of the children that were waited for."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[field]) + int(fields[field + 1])) * _TICK_S


def _orphans_s(init: int, process: int) -> float:
    """Seconds of the processes whose parents have ended: the supervisor waits for them."""
    return _times(init, _OF_CHILDREN) if init != process else 0.0
