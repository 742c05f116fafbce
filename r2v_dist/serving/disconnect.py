"""Notices that a caller has gone. Invariant: whatever is done for it then ends, in every phase, and
within `_SOON_S` of its going.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.types import Receive

_SOON_S = 0.01
"""Whoever is answered sooner needs no task that watches."""


@contextlib.asynccontextmanager
async def until_gone(receive: Receive) -> AsyncIterator[None]:
    """Cancel what happens inside when the caller is gone."""
    current = asyncio.current_task()
    assert current is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        current.cancel()

    watchers: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    timer = loop.call_later(_SOON_S, lambda: watchers.append(loop.create_task(watch())))
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        current.uncancel()
    finally:
        timer.cancel()
        for task in watchers:
            task.cancel()
