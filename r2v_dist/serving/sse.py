"""Server-sent events, read from bytes however they are cut and written back one by one."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

DONE = b"[DONE]"
PING = b": ping\n\n"


def event(data: bytes) -> bytes:
    """One event with this data, which holds no line end."""
    return b"data: " + data + b"\n\n"


class EventReader:
    """Data of the events in a stream of bytes. Comments and other fields are left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that this chunk completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield from self._line(line.rstrip(b"\r"))

    def end(self) -> Iterator[bytes]:
        """What the end of the stream completes: some servers leave the last blank line out."""
        rest = self._rest.rstrip(b"\r")
        self._rest = b""
        if rest:
            yield from self._line(rest)
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[bytes]:
        if not line:
            if self._data:
                data = b"\n".join(self._data)
                self._data = []
                yield data
        elif line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))


async def with_pings(events: AsyncIterator[bytes], ping_s: float) -> AsyncGenerator[bytes, None]:
    """The events, and a comment wherever none comes for so long."""
    iterator = aiter(events)
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(iterator))
            while not coming.done():
                await asyncio.wait([coming], timeout=ping_s)
                if not coming.done():
                    yield PING
            try:
                yield coming.result()
            except StopAsyncIteration:
                return
    finally:
        if coming is not None and not coming.done():
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await coming
        await events.aclose()  # type: ignore[attr-defined]
