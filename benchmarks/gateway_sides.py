"""The servers of `benchmarks.gateway`, each a process of its own: a STUB teacher that answers at
once, a plain reverse proxy (Starlette and aiohttp: the least that Python can do), and the gateway.

    python -m benchmarks.gateway_sides stub|proxy|gateway PORT [UPSTREAM]
"""

import asyncio
import contextlib
import sys
from array import array
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import numpy as np
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from r2v_dist.config.models import ModelConfig
from r2v_dist.config.serve import ServeConfig
from r2v_dist.language_model import Answer, Candidate, Request, Sampling, TopTokens
from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import RISKS, RouterModel
from r2v_dist.router.registry import RouterModels
from r2v_dist.router.scaler import Scaler
from r2v_dist.serving.access import Access
from r2v_dist.serving.app import GatewayApp, make_app
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.policy import Point, Policy
from r2v_dist.serving.server import listen, run_server, settle
from r2v_dist.serving.sides import EndpointTeacher, Slm
from r2v_dist.serving.upstream import Upstream
from r2v_dist.serving.watch import Watch

_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"stub","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"go north"},"finish_reason":"stop",'
    b'"logprobs":null}],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}'
)


class Stub(asyncio.Protocol):
    """Answers every request with the same bytes as soon as it is there."""

    def connection_made(self, transport: Any) -> None:
        """Keep the way back."""
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer what is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            told = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
            self._transport.write(told + str(len(_ANSWER)).encode() + b"\r\n\r\n" + _ANSWER)


class InstantSlm:
    """A SIMULATED SLM whose five candidates are there at once."""

    async def sample(self, request: Request) -> Answer:
        """Always the same."""
        ids = tuple(range(6))
        texts = ("go north", "go south", "go north", "take lamp", "go north")
        made = tuple(Candidate(text, ids, (-0.3,) * 7) for text in texts)
        top = TopTokens(array("i", range(20)), array("f", [-0.5] + [-4.0] * 19))
        return Answer(made, "simulated", 200, top)


class InstantVerifier:
    """SIMULATED scores."""

    async def score(self, history: Any, user: Any, candidates: Any) -> tuple[float, ...]:
        """Always the same."""
        return (0.5, 0.2, 0.6, 0.1, 0.4)


def made_up_router() -> RouterModel:
    """A router of the default sizes, without torch, which no gateway needs."""
    rng = np.random.default_rng(0)
    width = len(FEATURE_NAMES)

    def mlp(*sizes: int) -> Mlp:
        layers = [(rng.normal(size=(o, i)), rng.normal(size=o)) for i, o in pairwise(sizes)]
        return Mlp(tuple(layers))

    heads = {name: mlp(width, 64, 64, 1) for name in RISKS}
    heads["policy"] = mlp(len(RISKS) + width, 64, 1)
    mean_F, std_F = rng.normal(size=width), rng.uniform(0.5, 2.0, width)
    scaler = Scaler(mean_F, std_F, mean_F - 3.0 * std_F, mean_F + 3.0 * std_F)
    return RouterModel("made-up", "decoupled", scaler, heads, {})


def make_gateway(upstream: Upstream, base_url: str) -> Gateway:
    """A gateway with a router of the default sizes."""
    points = {name: Point(name, at) for name, at in (("selected", 0.5), ("never", 1e9))}
    policy = Policy("r2v", RouterModels({("r2v", 0): made_up_router()}), 0, points, "selected")
    told = ModelConfig(backend="openai", model="stub", base_url=base_url)
    slm = Slm(InstantSlm(), Sampling(5), "simulated", InstantVerifier())
    teacher = EndpointTeacher(upstream, told, "stub")
    return Gateway(slm, teacher, policy, ServeConfig(), max_steps=20)


def _serve_stub(port: int) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


def _serve_proxy(port: int, upstream: str) -> None:
    session: aiohttp.ClientSession

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        nonlocal session
        connector = aiohttp.TCPConnector(limit=512)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield

    async def forward(request: HttpRequest) -> Response:
        headers = {"content-type": "application/json"}
        body = await request.body()
        async with session.post(f"{upstream}/chat/completions", data=body, headers=headers) as r:
            return Response(await r.read(), r.status, media_type="application/json")

    route = Route("/v1/chat/completions", forward, methods=["POST"])
    application = Starlette(routes=[route], lifespan=lifespan)
    uvicorn.run(application, host="127.0.0.1", port=port, loop="uvloop", http="httptools",
                log_level="warning", access_log=False)  # fmt: skip


def _serve_gateway(port: int, upstream_url: str) -> None:
    upstream = Upstream(upstream_url, "", ServeConfig().upstream)
    gateway = make_gateway(upstream, upstream_url)
    gateway.listeners.append(Watch(gateway).answered)
    app = GatewayApp(gateway, Access())

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with upstream:
            settle()
            yield

    with listen("127.0.0.1", port) as bound:
        run_server(make_app(app, lifespan), app, bound, 1.0)


if __name__ == "__main__":
    what, place, *rest = sys.argv[1:]
    if what == "stub":
        _serve_stub(int(place))
    elif what == "proxy":
        _serve_proxy(int(place), *rest)
    else:
        _serve_gateway(int(place), *rest)
