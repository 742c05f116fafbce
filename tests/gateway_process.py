"""A gateway in a process of its own, as `r2v serve` sets it up, with a SIMULATED SLM:

    python -m tests.gateway_process FOLDER TEACHER_URL [ENTRIES]

It says at which port, logs to FOLDER and remembers ENTRIES answers. `/tasks` tells what it holds.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from r2v_dist.config.models import ModelConfig
from r2v_dist.config.serve import ServeConfig
from r2v_dist.language_model import Sampling
from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.router.scaler import Scaler
from r2v_dist.serving.access import Access
from r2v_dist.serving.app import GatewayApp, make_app
from r2v_dist.serving.drift import FeatureDrift
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.log import RequestLog, flushing
from r2v_dist.serving.observing import Observing
from r2v_dist.serving.server import listen, run_server, settle
from r2v_dist.serving.sides import EndpointTeacher, Slm
from r2v_dist.serving.upstream import Upstream
from r2v_dist.serving.watch import Watch
from tests.gateway_rig import KEY, ScriptedSlm, ScriptedVerifier
from tests.integration.serving.test_equality import POLICY, proposals


class _Forgetful(list[Any]):
    """Requests that nobody looks at."""

    def append(self, item: Any) -> None:
        """Keep nothing."""


def main(folder: Path, teacher_url: str, entries: int) -> None:
    """Serve until SIGTERM."""
    limits = {"backoff_s": 0.01, "breaker_failures": 1000, "first_byte_s": 120.0}
    config = ServeConfig.model_validate({"state_entries": entries, "upstream": limits})
    upstream = Upstream(teacher_url, KEY, config.upstream)
    model = ModelConfig(backend="openai", model="by-text", base_url=teacher_url)
    slm = ScriptedSlm(propose=proposals, requests=_Forgetful())
    side = Slm(slm, Sampling(n=3, max_tokens=24), "slm-1", ScriptedVerifier())
    gateway = Gateway(side, EndpointTeacher(upstream, model, "stub"), POLICY, config, 12)
    app = GatewayApp(gateway, Access())
    states_NF = np.random.default_rng(0).normal(size=(4000, len(FEATURE_NAMES)))
    watch = Watch(gateway, FeatureDrift(states_NF, Scaler.of(states_NF)))
    log = RequestLog(folder, gateway)
    gateway.listeners += [watch.answered, log.answered]
    app.failures.append(watch.failed)
    process = psutil.Process()

    async def held(_: Request) -> JSONResponse:
        told = {"tasks": len(asyncio.all_tasks()), "files": process.num_fds()}
        told |= {"rss": process.memory_info().rss, "under_way": app.under_way}
        return JSONResponse(told | {"cpu_s": sum(process.cpu_times()[:2])})

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with upstream, flushing(log):
            settle()
            yield
        log.close()

    routes = [*Observing(watch, Access(), log, folder).routes, Route("/tasks", held)]
    with listen("127.0.0.1", 0) as bound:
        print(bound.getsockname()[1], flush=True)
        run_server(make_app(app, lifespan, routes), app, bound, 5.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 100_000)
