"""The deadline of a unit, which stands still while a question of the unit waits for an engine.

An engine's own deadlines and its watch bound that wait. So a unit whose engines are overloaded, or
start again, is late and has not failed.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

_current: ContextVar["_Clock | None"] = ContextVar("clock", default=None)


class _Clock:
    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self._pauses = 0
        self._left_s = 0.0
        self.over = False

    @property
    def _runs(self) -> bool:
        return not self.over and not self._timeout.expired()

    def pause(self) -> None:
        self._pauses += 1
        deadline = self._timeout.when()
        if self._pauses == 1 and deadline is not None and self._runs:
            self._left_s = deadline - asyncio.get_running_loop().time()
            self._timeout.reschedule(None)

    def go_on(self) -> None:
        self._pauses -= 1
        if self._pauses == 0 and self._runs:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._left_s)


@contextlib.asynccontextmanager
async def unit_deadline(limit_s: float) -> AsyncIterator[None]:
    """Raises TimeoutError where the block takes longer than this, waits for engines apart."""
    async with asyncio.timeout(limit_s) as timeout:
        clock = _Clock(timeout)
        token = _current.set(clock)
        try:
            yield
        finally:
            clock.over = True
            _current.reset(token)


@contextlib.contextmanager
def waiting_for_engine() -> Iterator[None]:
    """The block counts for no unit's deadline."""
    clock = _current.get()
    if clock is None:
        yield
        return
    clock.pause()
    try:
        yield
    finally:
        clock.go_on()
