"""The gateway over HTTP: one pure-ASGI application. Invariant: a caller that goes away ends all
work for it, in every phase; headers leave after the decision, so that the route is on them.

There is no middleware that wraps the request's messages: such a layer keeps the disconnect from
whoever has to know of it.
"""

import asyncio
import contextlib
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from r2v_dist.errors import warn
from r2v_dist.serving.access import Access
from r2v_dist.serving.attempt import Attempt, Failure
from r2v_dist.serving.begun import Begun, Caller
from r2v_dist.serving.controls import ALIASES, unknown_model
from r2v_dist.serving.disconnect import until_gone
from r2v_dist.serving.errors import ApiError, busy
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.request_body import read_body
from r2v_dist.serving.sending import Answer
from r2v_dist.serving.sse import PING, with_pings
from r2v_dist.serving.teacher_reply import Truncated
from r2v_dist.serving.telling import headers as headers_of
from r2v_dist.serving.upstream_reply import TeacherDown, TeacherRefused
from r2v_dist.serving.wire import ChatRequest, read_request

_STARTED = int(time.time())
_DOCUMENT = Path(__file__).with_name("openapi.yaml")
CHAT = "/v1/chat/completions"
_Act = Callable[[Scope, Receive, Send], Awaitable[None]]


class GatewayApp:
    """The endpoints of a gateway. `access` says who may ask."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        self.gateway = gateway
        self._access = access
        self.draining = False
        self.under_way = 0
        self.failures: list[Callable[[Failure], object]] = []
        """Told of every request that ended without a decision."""

    @property
    def routes(self) -> list[Route]:
        """What Starlette is told."""
        return [
            Route(CHAT, _Endpoint(self.chat), methods=["POST"]),
            Route("/v1/decision", _Endpoint(self._decision), methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/openapi.json", self._document),
            Route("/health", self._health),
            Route("/ready", self._ready),
        ]

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._attempted(self._answered, scope, receive, send)

    async def _decision(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What would happen to a request; nothing of it is remembered."""
        await self._attempted(self._decided, scope, receive, send)

    async def _attempted(
        self,
        act: Callable[[Attempt, Receive], Awaitable[None]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        answer = Answer(send)
        attempt = Attempt(scope, answer)
        self.under_way += 1
        try:
            await act(attempt, receive)
        except ApiError as error:
            await answer.fail(error)
        except TeacherRefused as refusal:
            error_body = {"error": refusal.error}
            await answer.fail_with(refusal.status, error_body, dict(refusal.headers))
        except TeacherDown as down:
            await answer.fail(_of_teacher(down))
        except Exception as error:  # a boundary: the caller must learn of it, and no one else
            await answer.fail(_unexpected(scope, error))
        finally:
            self.under_way -= 1
            if not attempt.decided:
                for listener in self.failures:
                    listener(attempt.failed())

    async def _answered(self, attempt: Attempt, receive: Receive) -> None:
        chat, headers, caller = await self._read(attempt, receive)
        async with until_gone(receive):
            beginning = self.gateway.begin(chat, headers, caller)
            if chat.stream:
                await self._streamed(attempt, asyncio.ensure_future(beginning))
                return
            begun = await beginning
            with self._ending(attempt, begun):
                body = self.gateway.body(begun)
                await attempt.answer.json(200, body, headers_of(begun))

    async def _decided(self, attempt: Attempt, receive: Receive) -> None:
        chat, headers, caller = await self._read(attempt, receive, {"x-r2v-dry-run": "true"})
        async with until_gone(receive):
            begun = await self.gateway.begin(chat, headers, caller)
            with self._ending(attempt, begun):
                extension = self.gateway.extension(begun)
                extension["route"] = extension.pop("would")
                self.gateway.abandoned(begun, "decision")
            await attempt.answer.json(200, {"object": "r2v.decision", **extension}, {})

    async def _read(
        self, attempt: Attempt, receive: Receive, further: dict[str, str] | None = None
    ) -> tuple[ChatRequest, dict[str, str], Caller]:
        """What is asked, as if with these further headers, and by whom. Raises ApiError."""
        caller, headers = self._admit(attempt.scope)
        raw = await read_body(receive, headers, self.gateway.config.body_mib)
        chat = read_request(raw, headers | (further or {}))
        attempt.model = str(chat.body["model"])
        return chat, headers, caller

    def _leave(self, attempt: Attempt, beginning: "asyncio.Future[Begun]") -> None:
        """Nobody waits for the decision any more."""
        if not beginning.done():
            beginning.cancel()
        elif not beginning.cancelled() and beginning.exception() is None:
            with self._ending(attempt, beginning.result()):
                pass

    @contextlib.contextmanager
    def _ending(self, attempt: Attempt, begun: Begun) -> Iterator[None]:
        """Whatever happens to an answer that is decided, its end is told."""
        attempt.decided = True
        status = "cancelled"
        try:
            yield
        except Exception as error:
            refused = isinstance(error, ApiError) and error.status < 500
            status = "refused" if refused else "failed"
            raise
        finally:
            self.gateway.abandoned(begun, status)

    def _admit(self, scope: Scope) -> tuple[Caller, dict[str, str]]:
        """Who asks. Raises ApiError 401, 403, 429 and, while the gateway ends, 503."""
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        caller = self._access.caller(headers)
        if self.draining:
            raise busy("the gateway is shutting down", "shutting_down", 5)
        return caller, headers

    async def _streamed(self, attempt: Attempt, beginning: "asyncio.Future[Begun]") -> None:
        answer = attempt.answer
        ping_s = self.gateway.config.ping_after_s
        begun = None
        try:
            while not beginning.done():
                await asyncio.wait([beginning], timeout=ping_s)
                if not beginning.done():
                    await answer.begin_stream({})
                    await answer.write(PING)
            begun = beginning.result()
        finally:
            if begun is None:
                self._leave(attempt, beginning)
        with self._ending(attempt, begun):
            if begun.outcome.reply is None:
                self.gateway.compose(begun)
            try:
                await answer.begin_stream(headers_of(begun))
                pings = with_pings(self.gateway.events(begun), ping_s)
                async with contextlib.aclosing(pings) as events:
                    async for data in events:
                        await answer.write(data)
            except Truncated as error:
                raise ApiError(502, str(error), "upstream_error", code="truncated") from None
            await answer.end()

    async def _models(self, request: Request) -> Response:
        self._access.caller(dict(request.headers))
        return _json({"object": "list", "data": [_model(name) for name in self._names]})

    async def _model(self, request: Request) -> Response:
        self._access.caller(dict(request.headers))
        name = request.path_params["name"]
        if name not in self._names:
            raise unknown_model(name)
        return _json(_model(name))

    @property
    def _names(self) -> list[str]:
        points = self.gateway.policy.points.values()
        return [*ALIASES, *(f"r2v@{point.name}" for point in points if not point.problem)]

    async def _document(self, request: Request) -> Response:
        return Response(await asyncio.to_thread(_document), media_type="application/json")

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        return _json({"ready": not self.draining}, 503 if self.draining else 200)


def make_app(
    app: GatewayApp,
    lifespan: Callable[[Any], contextlib.AbstractAsyncContextManager[None]],
    further: Sequence[Route] = (),
) -> Starlette:
    """The application, with further endpoints. `lifespan` holds what it needs while it runs."""
    handlers: dict[Any, Any] = {ApiError: _told, HTTPException: _unrouted}
    routes = [*app.routes, *further]
    direct = {(CHAT, "POST"): app.chat}
    return _Application(direct, routes=routes, lifespan=lifespan, exception_handlers=handlers)


class _Application(Starlette):
    """`direct` are endpoints that answer their own errors: nothing stands between them and the
    server, as every layer of Starlette's costs each of their messages a call."""

    def __init__(self, direct: Mapping[tuple[str, str], _Act], **options: Any) -> None:
        super().__init__(**options)
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As Starlette's."""
        act = self._direct.get((scope.get("path", ""), scope.get("method", "")))
        if act is not None and scope["type"] == "http":
            await act(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class _Endpoint:
    """An endpoint that speaks ASGI itself."""

    def __init__(self, call: _Act) -> None:
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._call(scope, receive, send)


def _of_teacher(down: TeacherDown) -> ApiError:
    headers = {"retry-after": down.retry_after} if down.retry_after else {}
    if down.status == 503 and not headers:
        headers = {"retry-after": "1"}
    return ApiError(down.status, f"the teacher: {down}", "upstream_error", None, down.kind, headers)


@cache
def _document() -> bytes:
    """Read once, and not on the event loop, which may not be kept as long as that takes."""
    return msgspec.json.encode(yaml.safe_load(_DOCUMENT.read_bytes()))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "r2v"}


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    response = _json(error.body, error.status)
    response.headers.update(error.headers)
    return response


async def _unrouted(request: Request, error: Exception) -> Response:
    """No endpoint has this path, or none this method."""
    assert isinstance(error, HTTPException)
    api_error = ApiError(error.status_code, error.detail, headers=error.headers)
    return await _told(request, api_error)


def _unexpected(scope: Scope, error: Exception) -> ApiError:
    """What a caller is told of a mistake of ours; standard error says more."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(str(error).split())[:200]
    warn(f"{scope['path']}: {type(error).__name__}: {reason} ({frame.name}, line {frame.lineno})")
    return ApiError(500, "the gateway failed; its standard error says more", "server_error")
