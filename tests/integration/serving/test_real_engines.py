"""The gateway in front of real engines: both bundled models under vLLM on the CPU."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from actors.language_models.tokenizer import load_tokenizer
from actors.language_models.vllm import VllmModel
from actors.vllm.server_handle import EngineHandle, ModelServer
from r2v_dist.chat import ChatFormat
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.serve import ServeConfig
from r2v_dist.language_model import Sampling
from r2v_dist.serving.access import Access
from r2v_dist.serving.app import GatewayApp, make_app
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.server import in_background
from r2v_dist.serving.sides import EngineTeacher, Slm
from r2v_dist.storage.checkpoints import Checkpoint
from tests.gateway_rig import entropy_policy
from tests.runs import ROOT

pytestmark = pytest.mark.slow
MODELS = {"slm": "textworld-tiny", "teacher": "textworld-small"}
GAME = "Goal: take the lamp\n-= Kitchen =-\nYou are in a kitchen. There is a lamp here."


def model_config(role: str) -> ModelConfig:
    path = str(ROOT / "models" / MODELS[role])
    return ModelConfig(backend="vllm", model=path, max_model_len=1024, cpu_cores="0-1")


@pytest.fixture(scope="module")
def servers(ray_session: None) -> Iterator[dict[str, ModelServer]]:
    cluster = ClusterConfig(engine_probe_deadline_s=60, engine_start_deadline_s=500)
    started = {}
    for role in MODELS:
        config = model_config(role)
        started[role] = ModelServer(role, config, Checkpoint(config.model, f"{role}-1"), cluster)
    for server in started.values():
        server.wait()
    yield started
    for server in started.values():
        server.stop()


@contextlib.asynccontextmanager
async def gateway(servers: dict[str, ModelServer], **serve: Any) -> AsyncIterator[tuple[str, Any]]:
    handles = {role: server.handles() for role, server in servers.items()}
    models = {role: vllm_model(role, handles[role]) for role in MODELS}
    sampling = Sampling(n=5, max_tokens=24)
    served = Gateway(
        Slm(models["slm"], sampling, "slm-1"),
        EngineTeacher(models["teacher"], replace(sampling, n=1, temperature=0.0), "teacher-1"),
        entropy_policy(0.5),
        ServeConfig.model_validate(serve),
        max_steps=12,
        decode=load_tokenizer(model_config("slm").model).decode,  # type: ignore[attr-defined]
    )
    app = GatewayApp(served, Access())

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield

    async with in_background(make_app(app, lifespan), app) as url:
        yield url, served


def vllm_model(role: str, handles: list[EngineHandle]) -> VllmModel:
    config = model_config(role)
    return VllmModel(handles, load_tokenizer(config.model), config, role)


def test_case_37_prompts_grow_by_what_was_sampled_and_routes_repeat(
    servers: dict[str, ModelServer],
) -> None:
    async def case() -> None:
        async with gateway(servers) as (url, _):
            client = AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
            told = []
            for _ in range(2):
                messages: list[Any] = [{"role": "user", "content": GAME}]
                prompts = []
                routes = []
                for step in range(6):
                    answer = await client.chat.completions.create(model="r2v", messages=messages)
                    extension: Any = answer.model_extra or {}
                    assert extension["r2v"]["features"] == "exact"
                    routes.append((extension["r2v"]["route"], extension["r2v"]["score"]))
                    messages.append(answer.choices[0].message.model_dump(exclude_none=True))
                    messages.append({"role": "user", "content": f"You see thing {step}."})
                    prompts.append(messages)
                told.append(routes)
            assert told[0] == told[1]
            assert {route for route, _ in told[0]} <= {"slm", "teacher"}

    asyncio.run(case())


def test_case_37_the_prompt_is_a_strict_prefix_of_the_next(servers: dict[str, ModelServer]) -> None:
    async def case() -> None:
        async with gateway(servers) as (url, served):
            asked = []
            sample = served.slm.model.sample

            async def noting(request: Any) -> Any:
                asked.append(request)
                return await sample(request)

            served.slm.model.sample = noting
            async with httpx.AsyncClient(base_url=url, timeout=60) as http:
                messages: list[Any] = [{"role": "user", "content": GAME}]
                for step in range(5):
                    model = "r2v-teacher" if step == 2 else "r2v-slm"
                    body = {"model": model, "messages": messages}
                    answer = (await http.post("/v1/chat/completions", json=body)).json()
                    messages.append(answer["choices"][0]["message"])
                    messages.append({"role": "user", "content": f"You see thing {step}."})
            chat = ChatFormat(load_tokenizer(model_config("slm").model), "slm")
            prompts = [chat.prompt(request.history, request.user) for request in asked]
            for before, after in pairwise(prompts):
                assert after[: len(before)] == before

    asyncio.run(case())


def test_case_08_logprobs_of_a_real_engine(servers: dict[str, ModelServer]) -> None:
    async def case() -> None:
        async with gateway(servers) as (url, _):
            client = AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
            answer = await client.chat.completions.create(
                model="r2v-slm",
                messages=[{"role": "user", "content": GAME}],
                logprobs=True,
                top_logprobs=5,
            )
            choice = answer.choices[0]
            assert choice.logprobs is not None
            entries = choice.logprobs.content or []
            joined = b"".join(bytes(entry.bytes or []) for entry in entries)
            assert joined.decode() == choice.message.content
            assert all(entry.logprob <= 0 for entry in entries)
            assert len(entries[0].top_logprobs) == 5

    asyncio.run(case())


def test_case_16_leaving_ends_the_engines_work(servers: dict[str, ModelServer]) -> None:
    async def case() -> None:
        async with gateway(servers) as (url, served):
            slow = replace(served.slm, sampling=Sampling(n=64, max_tokens=600))
            served.slm = slow
            body = {"model": "r2v-slm", "messages": [{"role": "user", "content": GAME}]}
            async with httpx.AsyncClient(base_url=url, timeout=0.5) as http:
                with pytest.raises(httpx.ReadTimeout):
                    await http.post("/v1/chat/completions", json=body)
            actor = servers["slm"].actors[0]
            started = time.monotonic()
            while (await actor.health.options(concurrency_group="health").remote()).computing:
                assert time.monotonic() - started < 5
                await asyncio.sleep(0.02)

    asyncio.run(case())


def test_an_engine_that_is_killed_is_stood_in_for(servers: dict[str, ModelServer]) -> None:
    """The last test of this module: the SLM's engine dies under a request."""
    import os
    import signal

    async def case() -> None:
        async with gateway(servers, slm_deadline_s=3.0) as (url, _):
            actor = servers["slm"].actors[0]
            report = await actor.health.options(concurrency_group="health").remote()
            os.kill(report.pid, signal.SIGKILL)
            body = {"model": "r2v", "messages": [{"role": "user", "content": GAME}]}
            async with httpx.AsyncClient(base_url=url, timeout=30) as http:
                response = await http.post("/v1/chat/completions", json=body)
                assert response.status_code == 200
                assert response.headers["x-r2v-route"] == "teacher"
                assert response.headers["x-r2v-reason"] == "slm_unavailable"
                deadline = time.monotonic() + 200
                while time.monotonic() < deadline:
                    response = await http.post(
                        "/v1/chat/completions", json=body | {"model": "r2v-slm"}
                    )
                    if response.status_code == 200:
                        break
                    await asyncio.sleep(1)
                assert response.status_code == 200

    asyncio.run(case())
