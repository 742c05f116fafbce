"""The teacher's endpoint over HTTP. Invariant: nothing is asked again once a byte of an answer has
come, and every wait has a deadline with a name.

This module alone retries. Only the configured key goes out, and only what `_PASSED_ON` names comes
back of the endpoint's headers. An error's text is cut, and the key is taken out of it.
"""

import asyncio
import io
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import msgspec

from r2v_dist.config.serve import UpstreamConfig
from r2v_dist.retry_after import retry_after_s
from r2v_dist.serving.breaker import Breaker
from r2v_dist.serving.sse import DONE, EventReader
from r2v_dist.serving.upstream_reply import Reply, TeacherDown, TeacherRefused

_PASSED_ON = ("retry-after", "retry-after-ms", "x-request-id")
_PASSING = (408, 409, 425, 429)
_IN_PIECES = 2**20
_SHOWN = 300
"""Letters of an endpoint's message that are shown."""


class Upstream:
    """One endpoint. Used inside `async with`."""

    def __init__(self, base_url: str, key: str, config: UpstreamConfig) -> None:
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._key = key
        self._config = config
        self.breaker = Breaker(config.breaker_failures, config.breaker_rest_s)
        self._usage_in_streams = True
        self.requests = 0
        """Requests that were sent, retries included."""

    async def __aenter__(self) -> "Upstream":
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._config.connections, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),  # one caller's cookie is no other's
            headers=headers | {"content-type": "application/json", "user-agent": "r2v"},
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, body: dict[str, Any], stream: bool) -> Reply:
        """The answer to a request, begun. Raises TeacherDown and TeacherRefused."""
        deadline = time.monotonic() + self._config.total_s
        attempts = 0
        while True:
            if not self.breaker.enter():
                wait = f"{max(1.0, self.breaker.rest_s):.0f}"
                raise TeacherDown("breaker", "the teacher is left alone after failures", 503, wait)
            attempts += 1
            try:
                reply = await self._asked(body, stream, deadline, attempts)
            except TeacherDown as down:
                await self._rest(down, attempts, deadline)
            except asyncio.CancelledError:
                self.breaker.gave_up()
                raise
            else:
                self.breaker.succeeded()
                return reply

    async def _rest(self, down: TeacherDown, attempts: int, deadline: float) -> None:
        """Wait before the next attempt; raises what happened where there is none."""
        if down.status != 429:
            self.breaker.failed()
        else:
            self.breaker.succeeded()
        if attempts > self._config.retries or down.billed:
            raise down
        asked_s = down.asked_s
        backoff_s = self._config.backoff_s * 2.0 ** (attempts - 1)
        wait_s = asked_s if asked_s is not None else backoff_s * random.uniform(0.5, 1.0)
        if time.monotonic() + wait_s >= deadline:
            raise down
        await asyncio.sleep(wait_s)

    async def _asked(
        self, body: dict[str, Any], stream: bool, deadline: float, attempts: int
    ) -> Reply:
        request = dict(body)
        if stream and self._usage_in_streams:
            request["stream_options"] = {"include_usage": True}
        try:
            return await self._once(request, stream, deadline, attempts)
        except TeacherRefused as refusal:
            complaint = str(refusal.error.get("message", "")) + str(refusal.error.get("param", ""))
            if refusal.status not in (400, 422) or "stream_options" not in complaint:
                self.breaker.succeeded()
                raise
            if "stream_options" not in request:
                self.breaker.succeeded()
                raise
        self._usage_in_streams = False
        request.pop("stream_options")
        try:
            return await self._once(request, stream, deadline, attempts)
        except TeacherRefused:
            self.breaker.succeeded()
            raise

    async def _once(
        self, body: dict[str, Any], stream: bool, deadline: float, attempts: int
    ) -> Reply:
        self.requests += 1
        limit_s = min(self._config.first_byte_s, deadline - time.monotonic())
        try:
            async with asyncio.timeout(limit_s):
                response = await self._session.post(self._url, data=_encoded(body))
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise TeacherDown("connect", "no connection in time", 504) from None
            raise TeacherDown("first_byte", "no byte in time", 504, billed=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise TeacherDown("connect", f"{type(error).__name__}") from None
        try:
            return await self._begun(response, stream, deadline, attempts)
        except BaseException:
            response.close()
            raise

    async def _begun(
        self, response: aiohttp.ClientResponse, stream: bool, deadline: float, attempts: int
    ) -> Reply:
        headers = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
        if response.status != 200:
            raise self._refusal(response.status, await self._whole(response, deadline), headers)
        if not stream or "text/event-stream" not in response.headers.get("content-type", ""):
            payload = self._read(await self._whole(response, deadline))
            return Reply(headers, attempts, payload)
        events = self._events(response, deadline)
        first = await anext(events, None)
        if first is None:
            raise TeacherDown("broken", "a stream without an event")
        if (error := _error_in(first)) is not None:
            raise TeacherDown("broken", self._safe(error))
        return Reply(
            headers,
            attempts,
            events=_with_first(first, events),
            _response=response,
            _breaker=self.breaker,
        )

    async def _whole(self, response: aiohttp.ClientResponse, deadline: float) -> bytes:
        chunks = []
        async for chunk in self._chunks(response, deadline):
            chunks.append(chunk)
        return b"".join(chunks)

    async def _events(
        self, response: aiohttp.ClientResponse, deadline: float
    ) -> AsyncIterator[bytes]:
        reader = EventReader()
        async for chunk in self._chunks(response, deadline):
            for data in reader.feed(chunk):
                yield data
                if data == DONE:
                    return
        for data in reader.end():
            yield data

    async def _chunks(
        self, response: aiohttp.ClientResponse, deadline: float
    ) -> AsyncIterator[bytes]:
        while True:
            left_s = deadline - time.monotonic()
            kind = "between_bytes" if self._config.between_bytes_s <= left_s else "total"
            try:
                if response.content.is_eof():  # all has come: nothing is waited for
                    chunk = response.content.read_nowait()
                else:
                    async with asyncio.timeout(min(self._config.between_bytes_s, left_s)):
                        chunk = await response.content.readany()
            except TimeoutError:
                message = f"the answer stopped ({kind}_s)"
                raise TeacherDown(kind, message, 504, billed=True) from None
            except (aiohttp.ClientError, OSError) as error:
                raise TeacherDown("broken", f"{type(error).__name__}", billed=True) from None
            if not chunk:
                return
            yield chunk

    def _read(self, raw: bytes) -> dict[str, Any]:
        """A body that is a completion."""
        try:
            payload = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            payload = None
        if isinstance(payload, dict) and payload.get("error"):
            raise TeacherDown("broken", self._safe(str(payload["error"])))
        if not isinstance(payload, dict) or not _is_completion(payload):
            raise TeacherDown("broken", "HTTP 200 without an answer")
        for choice in payload["choices"]:
            _complete_calls(choice["message"])
        return payload

    def _refusal(
        self, status: int, raw: bytes, headers: Mapping[str, str]
    ) -> TeacherDown | TeacherRefused:
        try:
            payload = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            payload = None
        raw_error = payload.get("error") if isinstance(payload, dict) else None
        details = raw_error if isinstance(raw_error, dict) else {"message": raw_error}
        message = self._safe(str(details.get("message") or f"HTTP {status}"))
        if status >= 500 or status in _PASSING or status < 400:
            passing = status if status == 429 else 503
            return TeacherDown(
                "status",
                message,
                passing,
                headers.get("retry-after"),
                asked_s=retry_after_s(headers),
            )
        error = {
            "message": f"the teacher refuses: {message}",
            "type": _word(details.get("type")) or "invalid_request_error",
            "param": _word(details.get("param")),
            "code": _word(details.get("code")),
        }
        return TeacherRefused(status, error, headers)

    def _safe(self, text: str) -> str:
        """A short text without the key."""
        text = " ".join(text.split())
        if self._key:
            text = text.replace(self._key, "[key]")
        return text[:_SHOWN]


def _encoded(body: Mapping[str, Any]) -> bytes | io.BytesIO:
    """The body as it is sent: a long one in pieces, so that nobody else waits."""
    raw = msgspec.json.encode(body)
    return raw if len(raw) < _IN_PIECES else io.BytesIO(raw)


def _error_in(data: bytes) -> str | None:
    """What an event says that is an error."""
    if data == DONE:
        return None
    try:
        payload = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "an event that is no JSON"
    error = payload.get("error") if isinstance(payload, dict) else "no object"
    if not error:
        return None
    return str(error.get("message")) if isinstance(error, dict) else str(error)


def _is_completion(payload: Mapping[str, Any]) -> bool:
    choices = payload.get("choices")
    if not isinstance(choices, list) or not choices:
        return False
    return all(isinstance(c, dict) and isinstance(c.get("message"), dict) for c in choices)


def _complete_calls(message: Mapping[str, Any]) -> None:
    """Have the arguments of calls as text. Raises TeacherDown for what is no call of a tool."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise TeacherDown("broken", "calls of tools that are no list", billed=True)
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise TeacherDown("broken", "a call of a tool that cannot be read", billed=True)
        if not isinstance(function.get("arguments"), str):
            function["arguments"] = msgspec.json.encode(function.get("arguments") or {}).decode()


def _word(value: object) -> str | None:
    return value[:80] if isinstance(value, str) else None


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for data in rest:
        yield data
