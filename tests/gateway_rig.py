"""What the gateway's tests stand on: a teacher over HTTP that does as its model's name says and
notes every request, an SLM with scripted proposals, and the gateway between them on a real socket.

Neither is a model: the teacher is a stub, the SLM is simulated.
"""

import asyncio
import contextlib
import json
import time
from array import array
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from r2v_dist.config.models import ModelConfig
from r2v_dist.config.serve import ServeConfig
from r2v_dist.language_model import Answer, Candidate, Request, Sampling, TopTokens
from r2v_dist.router.registry import RouterModels
from r2v_dist.seeding import rng_for
from r2v_dist.serving.access import Access
from r2v_dist.serving.app import GatewayApp, make_app
from r2v_dist.serving.drift import FeatureDrift
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.log import RequestLog, flushing
from r2v_dist.serving.observing import Observing
from r2v_dist.serving.policy import Point, Policy
from r2v_dist.serving.recovery import take_up
from r2v_dist.serving.server import in_background
from r2v_dist.serving.sides import EndpointTeacher, Slm
from r2v_dist.serving.upstream import Upstream
from r2v_dist.serving.watch import Watch

KEY = "sk-canary-of-the-teacher"
USER = [{"role": "user", "content": "Goal: open the door\nYou see a door."}]


@dataclass
class Seen:
    """A request at the stub. `closed_at` is when the other side hung up before the end."""

    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    closed_at: float | None = None
    done: bool = False


@dataclass
class StubTeacher:
    """Answers by the name of the model: `fine`, `silent`, `status-CODE`, `cut`, `stall`, ..."""

    seen: list[Seen] = field(default_factory=list)
    text: Callable[[dict[str, Any]], str] = lambda body: "unlock the door"
    calls: list[dict[str, Any]] | None = None
    plan: list[str] = field(default_factory=list)
    """Faults of the next requests, before the model's name counts."""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    between_s: float = 0.0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        seen = Seen(body, dict(request.headers), time.monotonic())
        self.seen.append(seen)
        try:
            answer = await self._answer(request, body)
            seen.done = True
            return answer
        except (asyncio.CancelledError, ConnectionResetError):
            seen.closed_at = time.monotonic()
            raise

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        fault = self.plan.pop(0) if self.plan else body["model"]
        if fault == "silent":
            await asyncio.sleep(60)
        await asyncio.sleep(self.delay_s)
        if fault.startswith("status-"):
            status = int(fault.removeprefix("status-"))
            error = {"message": f"refused with {KEY}", "type": "teapot", "code": "no"}
            return web.json_response({"error": error}, status=status, headers=self.headers)
        if fault == "no-usage-option" and "stream_options" in body:
            error = {"message": "unknown field stream_options"}
            return web.json_response({"error": error}, status=400)
        if body.get("stream") and fault != "whole-only":
            return await self._stream(request, body, fault)
        message: dict[str, Any] = {"role": "assistant", "content": self.text(body)}
        if self.calls:
            message |= {"content": None, "tool_calls": self.calls}
        choices = [
            {"index": place, "message": message, "finish_reason": "stop"}
            for place in range(body.get("n") or 1)
        ]
        usage = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
        told = {"id": "chatcmpl-stub", "object": "chat.completion", "created": 1}
        told |= {"model": "stub-teacher-1", "choices": choices, "usage": usage}
        return web.json_response(told, headers={"set-cookie": "a=b", "x-request-id": "up-1"})

    async def _stream(
        self, request: web.Request, body: dict[str, Any], fault: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)

        async def send(chunk: dict[str, Any]) -> None:
            base = {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 1}
            line = json.dumps(base | {"model": "stub-teacher-1"} | chunk)
            prefix, end = ("data:", "\r\n\r\n") if fault == "variants" else ("data: ", "\n\n")
            if fault == "variants":
                await response.write(b": hello\r\nevent: message\r\n")
            await response.write((prefix + line + end).encode())
            await asyncio.sleep(self.between_s)

        if fault == "lazy-error":
            await response.write(b'data: {"error": {"message": "no model"}}\n\n')
            return response
        words = [] if self.calls else self.text(body).split(" ")
        for place, word in enumerate(words):
            delta = {"content": word if place == 0 else f" {word}"}
            if place == 0:
                delta["role"] = "assistant"
            await send({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            if place == 1 and fault == "cut":
                return response
            if place == 1 and fault == "stall":
                await asyncio.sleep(60)
            if place == 1 and fault == "in-band":
                await response.write(b'data: {"error": {"message": "overloaded"}}\n\n')
                return response
        for number, call in enumerate(self.calls or ()):
            delta = {"tool_calls": [{"index": number} | call]}
            await send({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        await send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
            await send({"choices": [], "usage": usage})
        if fault != "variants":
            await response.write(b"data: [DONE]\n\n")
        return response


@contextlib.asynccontextmanager
async def served_stub(teacher: StubTeacher) -> AsyncIterator[str]:
    """The stub on a free port; its base address."""
    application = web.Application(client_max_size=2**28)
    application.router.add_post("/v1/chat/completions", teacher)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = site._server
    assert server is not None
    try:
        port = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        await runner.cleanup()


@dataclass
class ScriptedSlm:
    """A simulated SLM: its proposals are a pure function of the request's prompt and seed."""

    texts: tuple[str, ...] = ("open door", "push door", "open door")
    propose: Callable[[Request], tuple[Candidate, ...]] | None = None
    unsure: float = 0.5
    count: Callable[[Request], int] = lambda request: 20
    """Tokens of a prompt."""
    delay_s: float = 0.0
    fail: Exception | None = None
    requests: list[Request] = field(default_factory=list)
    cancelled: int = 0

    async def sample(self, request: Request) -> Answer:
        self.requests.append(request)
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fail is not None:
            raise self.fail
        candidates = self.propose(request) if self.propose else self._of_texts()
        rest = (1 - self.unsure) or 1e-9
        top = TopTokens.of([(1, float(array("f", [-0.1])[0])), (2, rest - 1)])
        return Answer(candidates[: request.sampling.n], "slm-1", self.count(request), top)

    def _of_texts(self) -> tuple[Candidate, ...]:
        made = []
        for text in self.texts:
            ids = tuple(text.encode())
            made.append(Candidate(text, ids, tuple(-0.1 for _ in (*ids, 0))))
        return tuple(made)


@dataclass
class ScriptedVerifier:
    """Scores that depend on the state and the candidate alone."""

    fixed: dict[str, float] = field(default_factory=dict)
    delay_s: float = 0.0

    async def score(self, history: Any, user: Any, candidates: Any) -> tuple[float, ...]:
        await asyncio.sleep(self.delay_s)
        return tuple(
            self.fixed.get(c.text, rng_for(len(history), user, c.text).random()) for c in candidates
        )


def entropy_policy(threshold: float = 0.4) -> Policy:
    """The router `entropy`, at a threshold that the scripted SLM's entropy is above or below."""
    points = {
        "selected": Point("selected", threshold),
        "always": Point("always", -1e9),
        "never": Point("never", 1e9),
        "certified": Point("certified", None, problem="no feasible threshold"),
    }
    return Policy("entropy", RouterModels(), 0, points, "selected", "entropy")


@dataclass
class Rig:
    """A gateway that answers at `url`, and everything around it."""

    url: str
    gateway: Gateway
    app: GatewayApp
    teacher: StubTeacher
    slm: ScriptedSlm
    upstream: Upstream
    watch: Watch
    log: RequestLog | None


@contextlib.asynccontextmanager
async def rig(
    teacher: StubTeacher | None = None,
    slm: ScriptedSlm | None = None,
    verifier: ScriptedVerifier | None = None,
    policy: Policy | None = None,
    model: str = "fine",
    access: Access | None = None,
    base_url: str | None = None,
    decode: Any = None,
    folder: Path | None = None,
    drift: FeatureDrift | None = None,
    **serve: Any,
) -> AsyncIterator[Rig]:
    """A gateway with these parts; `serve` are keys of its configuration."""
    teacher = teacher or StubTeacher()
    slm = slm or ScriptedSlm()
    upstream_keys = {"backoff_s": 0.01} | serve.pop("upstream", {})
    config = ServeConfig.model_validate(serve | {"upstream": upstream_keys})
    sampling = Sampling(n=3, max_tokens=24)
    side = Slm(slm, sampling, "slm-1", verifier)
    async with served_stub(teacher) as stub:
        address = base_url or stub
        told = ModelConfig(backend="openai", model=model, base_url=address)
        async with Upstream(address, KEY, config.upstream) as upstream:
            gateway = Gateway(
                side,
                EndpointTeacher(upstream, told, model),
                policy or entropy_policy(),
                config,
                max_steps=12,
                decode=decode,
            )
            who = access or Access()
            app = GatewayApp(gateway, who)
            watch = Watch(gateway, drift)
            gateway.listeners.append(watch.answered)
            app.failures.append(watch.failed)
            log = None
            if folder is not None:
                take_up(folder, gateway, watch)
                log = RequestLog(folder, gateway)
                gateway.listeners.append(log.answered)
            observing = Observing(watch, who, log, folder)

            @contextlib.asynccontextmanager
            async def lifespan(_: Any) -> AsyncIterator[None]:
                async with flushing(log):
                    yield

            application = make_app(app, lifespan, observing.routes)
            async with in_background(application, app) as url:
                yield Rig(url, gateway, app, teacher, slm, upstream, watch, log)
