"""How long a program may go on: the time in which it was ready to run and got no processor is not its own.

A busy machine must not change how a run ends. The limit on the clock is compared with the program's own time: that of the
clock less what the kernel says it has waited for a processor. A program of several threads or processes may be waiting for
itself: for such a one the clock counts alone.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from r2v_dist.errors import RuntimeFailure

BACKSTOP = 20.0
"""However busy the machine, by the clock no program goes on for longer than so many times its limit."""
_LOOK_AGAIN_S = 0.05


def told() -> bool:
    """Whether this kernel says how long processes wait; without it time is that of the clock."""
    return _schedstat(Path("/proc/self")).is_file() and Path("/proc/thread-self/children").is_file()


class Patience:
    """Counts from its creation for one program: the child of process `init`, or `init` itself where nothing supervises it."""

    def __init__(self, wall_s: float, init: int, supervised: bool) -> None:
        self._wall_s, self._init, self._supervised = wall_s, init, supervised
        self._started = time.monotonic()

    def left(self) -> float:
        """Seconds after which to ask again; nothing left means that the program's time is over."""
        elapsed = time.monotonic() - self._started
        left = self._wall_s - elapsed
        if left > 0:
            return left
        if elapsed > BACKSTOP * self._wall_s or (left := left + self._waited_s()) <= 0:
            return 0.0
        return max(left, _LOOK_AGAIN_S)

    def blame_machine(self, cpu_s: float | None) -> None:
        """To be called when nothing is left. Raises RuntimeFailure where it is known that all processes together (`cpu_s`)
        hardly got a processor: such an end says nothing about the program, and no program can bring it about."""
        elapsed = time.monotonic() - self._started
        if elapsed > BACKSTOP * self._wall_s and cpu_s is not None and cpu_s < self._wall_s and elapsed - self._waited_s() < self._wall_s:
            raise RuntimeFailure(f"a program got {cpu_s:.1f} s of a processor in {elapsed:.0f} s; the machine is overloaded")

    def _waited_s(self) -> float:
        """Seconds that the program has waited for a processor; 0 for one that may be waiting for its own threads or processes."""
        with suppress(OSError, ValueError, IndexError):  # it has just ended, or the kernel does not tell
            process = self._init
            if self._supervised:
                [process] = _children(process)
            if not _children(process) and len(os.listdir(f"/proc/{process}/task")) == 1:
                return int(_schedstat(Path(f"/proc/{process}")).read_text(encoding="utf-8").split()[1]) / 1e9
        return 0.0


def _children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()]


def _schedstat(process: Path) -> Path:
    """Nanoseconds on a processor, nanoseconds waiting for one, and a count; of the first thread."""
    return process / "schedstat"
