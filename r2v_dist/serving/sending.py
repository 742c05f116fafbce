"""An answer as it is sent over ASGI: at once, or as a stream of events."""

from typing import Any

import msgspec
from starlette.types import Send

from r2v_dist.serving.errors import ApiError
from r2v_dist.serving.sse import event


class Answer:
    """An answer as it is sent. What fails after the headers is told as an event."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._streaming = False
        self._over = False
        self.status: int | None = None
        """The status that was sent; None before."""
        self.error = ""
        """The code of the error that was told."""

    async def json(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        """Send all at once."""
        raw = msgspec.json.encode(body)
        full_headers = headers | {
            "content-type": "application/json",
            "content-length": str(len(raw)),
        }
        await self._start(status, full_headers)
        await self._send({"type": "http.response.body", "body": raw})
        self._over = True

    async def begin_stream(self, headers: dict[str, str]) -> None:
        """Send the headers of a stream, once."""
        if not self._streaming:
            self._streaming = True
            stream_headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
            await self._start(200, headers | stream_headers)

    async def write(self, data: bytes) -> None:
        """Send a part of the stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b""})
        self._over = True

    async def fail(self, error: ApiError) -> None:
        """Tell of an error."""
        await self.fail_with(error.status, error.body, dict(error.headers))

    async def fail_with(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        """Tell of an error: by the status, or as the last event where there is one already."""
        if self._over:
            return
        error = body["error"]
        self.error = str(error.get("code") or error.get("type") or "error")
        if not self._streaming:
            await self.json(status, body, headers)
            return
        await self.write(event(msgspec.json.encode(body)))
        await self.end()

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        pairs = [(k.encode(), v.encode("latin-1", "replace")) for k, v in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})
