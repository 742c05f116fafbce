"""How many requests an engine computes at once. The others wait here, in order of arrival.

A request that waits has no deadline: its deadline begins when the engine begins to compute it, so
that overload makes answers late and never makes them fail. The queue is bounded by who asks: a unit
under way has one question at a time.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Admission:
    """Room for `capacity` sequences. All calls come from one event loop."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free = capacity
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.waiting = 0
        """Requests that wait; other threads may read it."""

    @contextlib.asynccontextmanager
    async def room(self, sequences: int) -> AsyncIterator[None]:
        """Enter once there is room for so many sequences; a request larger than everything enters
        alone.
        """
        size = min(sequences, self._capacity)
        await self._enter(size)
        try:
            yield
        finally:
            self._leave(size)

    async def _enter(self, size: int) -> None:
        if not self._queue and size <= self._free:
            self._free -= size
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((size, turn))
        self.waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(size)
            else:
                self._admit()
            raise
        finally:
            self.waiting -= 1

    def _leave(self, size: int) -> None:
        self._free += size
        self._admit()

    def _admit(self) -> None:
        while self._queue:
            size, turn = self._queue[0]
            if turn.done():
                self._queue.popleft()  # whoever asked has gone
                continue
            if size > self._free:
                return
            self._queue.popleft()
            self._free -= size
            turn.set_result(None)
