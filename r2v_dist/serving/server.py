"""uvicorn around the application. Invariant: after SIGTERM nothing new is accepted, what is under
way may end within the grace, and the process then leaves with 0."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette

from r2v_dist.errors import UsageError
from r2v_dist.serving.app import GatewayApp

_BACKLOG = 2048
_YOUNG_OBJECTS = 10_000
"""New objects after which the garbage collector looks at the youngest; Python's own is 700."""


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens. Raises UsageError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP: asyncio turns off the wait for more data (40 ms an answer) only where it is.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)  # whoever comes before the server has started waits
        except OSError as error:
            raise UsageError(
                f"--host {host} --port {port}: {error.strerror or error}; choose another"
            ) from None
        yield listener


def run_server(
    application: Starlette, app: GatewayApp, bound: socket.socket, grace_s: float
) -> None:
    """Serve until SIGTERM or SIGINT."""
    config = _config(application, grace_s, "uvloop")
    server = _Server(config, app)
    # uvicorn raises the signal again at its end, when there is nothing left to interrupt.
    earlier_handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run([bound])
    finally:
        signal.signal(signal.SIGTERM, earlier_handler)


def settle() -> None:
    """Have the garbage collector leave alone what is there before the first request, and look less
    often at what comes. Else it goes through all modules and models again and again, and every
    request waits meanwhile; what a request leaves behind has no cycles worth so much."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def _config(
    application: Starlette, grace_s: float, loop: Literal["uvloop", "none"]
) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        loop=loop,
        http="httptools",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        timeout_keep_alive=75,
    )


class _Server(uvicorn.Server):
    """Tells the application as soon as it is to end."""

    def __init__(self, config: uvicorn.Config, app: GatewayApp) -> None:
        super().__init__(config)
        self._gateway = app

    def handle_exit(self, sig: int, frame: Any) -> None:
        """As uvicorn's."""
        self._gateway.draining = True
        super().handle_exit(sig, frame)


@contextlib.asynccontextmanager
async def in_background(application: Starlette, app: GatewayApp) -> AsyncIterator[str]:
    """The application on a free port of this process's event loop, for tests and benchmarks. The
    address is what comes."""
    with listen("127.0.0.1", 0) as listener:
        config = _config(application, 1.0, "none")
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.005)
            if serving.done():
                await serving
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
