"""Section B of the acceptance cases: streams, and callers that go away."""

import asyncio
import json
import time
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.gateway_rig import USER, Rig, ScriptedSlm, ScriptedVerifier, StubTeacher, rig

BOUND_S = 5.0
"""In which a caller's leaving must have ended all work for it. On an idle machine it takes some
milliseconds; a busy one may not fail the test."""


async def opened(
    r: Rig, path: str = "/v1/chat/completions", **given: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw socket with a request sent."""
    host, port = r.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    raw = json.dumps({"model": "r2v-teacher", "messages": USER} | given).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    writer.write(head.encode() + raw)
    await writer.drain()
    return reader, writer


async def until(condition: Any, limit_s: float = 5.0) -> float:
    """Seconds until the condition held."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s
        await asyncio.sleep(0.002)
    return time.monotonic() - started


def texts(raw: bytes) -> list[str]:
    """Contents of the deltas in a raw stream."""
    found = []
    for line in raw.splitlines():
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                found.append(choice["delta"].get("content") or "")
    return found


def test_case_14_a_caller_that_leaves_a_stream_ends_the_teacher() -> None:
    async def case() -> None:
        teacher = StubTeacher(text=lambda body: "a b c d e f g h", between_s=0.05)
        async with rig(teacher) as r:
            served: list[str] = []
            r.gateway.listeners.append(lambda begun: served.append(begun.status))
            before = len(asyncio.all_tasks())
            reader, writer = await opened(r, stream=True)
            raw = b""
            while len(texts(raw)) < 3:
                raw += await reader.read(65536)
            writer.transport.abort()
            assert await until(lambda: r.teacher.seen[0].closed_at is not None) < BOUND_S
            await until(lambda: served == ["cancelled"])
            await until(lambda: len(asyncio.all_tasks()) <= before)
            assert served == ["cancelled"]  # an answer ends once

    asyncio.run(case())


@pytest.mark.parametrize("stream", [False, True])
def test_cases_15_16_a_caller_that_leaves_before_the_first_byte(stream: bool) -> None:
    async def case() -> None:
        async with rig(model="silent") as r:
            _, writer = await opened(r, stream=stream)
            await until(lambda: bool(r.teacher.seen))
            await asyncio.sleep(0.05)
            writer.transport.abort()
            assert await until(lambda: r.teacher.seen[0].closed_at is not None) < BOUND_S
            await until(lambda: r.app.under_way == 0)

    asyncio.run(case())


@pytest.mark.parametrize("stream", [False, True])
def test_case_16_a_caller_that_leaves_while_the_slm_samples(stream: bool) -> None:
    async def case() -> None:
        async with rig(slm=ScriptedSlm(delay_s=20)) as r:
            _, writer = await opened(r, stream=stream, model="r2v")
            await until(lambda: bool(r.slm.requests))
            writer.transport.abort()
            assert await until(lambda: r.slm.cancelled == 1) < BOUND_S
            await until(lambda: r.app.under_way == 0)

    asyncio.run(case())


def test_case_16_a_caller_that_leaves_a_decision_ends_it_without_an_error(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async def case() -> None:
        async with rig(slm=ScriptedSlm(delay_s=20)) as r:
            before = len(asyncio.all_tasks())
            _, writer = await opened(r, "/v1/decision", model="r2v")
            await until(lambda: bool(r.slm.requests))
            writer.transport.abort()
            assert await until(lambda: r.slm.cancelled == 1) < BOUND_S
            await until(lambda: len(asyncio.all_tasks()) <= before)

    asyncio.run(case())
    assert not caplog.records
    assert not capsys.readouterr().err


def test_case_18_a_long_wait_is_not_silent() -> None:
    async def case() -> None:
        async with rig(StubTeacher(delay_s=0.5), ping_after_s=0.1) as r:
            reader, writer = await opened(r, stream=True)
            raw = b""
            while b"[DONE]" not in raw:
                raw += await reader.read(65536)
            writer.close()
            head, _, stream = raw.partition(b"\r\n\r\n")
            assert b"200 OK" in head
            assert stream.index(b": ping") < stream.index(b"data: ")
            first = json.loads(stream[stream.index(b"data: ") + 6 :].split(b"\n")[0])
            assert first["r2v"]["route"] == "teacher"
            assert "".join(texts(stream)) == "unlock the door"
            client = AsyncOpenAI(base_url=f"{r.url}/v1", api_key="x", max_retries=0)
            answer = await client.chat.completions.create(
                model="r2v-teacher", messages=USER, stream=True
            )
            said = [chunk.choices[0].delta.content or "" async for chunk in answer]
            assert "".join(said) == "unlock the door"

    asyncio.run(case())


def test_case_19_an_error_before_any_byte_has_a_status_of_its_own() -> None:
    async def case() -> None:
        async with (
            rig(model="status-401") as r,
            httpx.AsyncClient(base_url=r.url, timeout=60) as http,
        ):
            told = {"model": "r2v-teacher", "messages": USER, "stream": True}
            response = await http.post("/v1/chat/completions", json=told)
            assert response.status_code == 401
            assert response.headers["content-type"] == "application/json"

    asyncio.run(case())


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_cases_20_21_a_broken_stream_ends_with_an_error_and_one_answers_text(fault: str) -> None:
    async def case() -> None:
        async with rig(model=fault, upstream={"between_bytes_s": 0.3}) as r:
            served: list[str] = []
            r.gateway.listeners.append(lambda begun: served.append(begun.status))
            reader, _ = await opened(r, stream=True)
            raw = b""
            while b'"error"' not in raw:
                raw += await reader.read(65536)
            assert "".join(texts(raw)) == "unlock the"
            assert b"[DONE]" not in raw
            assert b'"finish_reason":"stop"' not in raw.replace(b" ", b"")
            assert len(r.teacher.seen) == 1
            await until(lambda: served in (["truncated"], ["failed"]))
            assert r.upstream.breaker._failures == 1
            client = AsyncOpenAI(base_url=f"{r.url}/v1", api_key="x", max_retries=0)
            stream = await client.chat.completions.create(
                model="r2v-teacher", messages=USER, stream=True
            )
            with pytest.raises(openai.APIError):
                _ = [chunk async for chunk in stream]

    asyncio.run(case())


def test_case_24_headers_and_then_an_error_count_as_no_answer() -> None:
    async def case() -> None:
        async with (
            rig(model="lazy-error") as r,
            httpx.AsyncClient(base_url=r.url, timeout=60) as http,
        ):
            told = {"model": "r2v@always", "messages": USER, "stream": True}
            response = await http.post("/v1/chat/completions", json=told)
            assert response.status_code == 200
            assert response.headers["x-r2v-route"] == "slm"
            assert response.headers["x-r2v-reason"] == "teacher_unavailable"
            refused = await http.post(
                "/v1/chat/completions", json=told | {"r2v": {"fallback": False}}
            )
            assert refused.status_code == 503

    asyncio.run(case())


def test_case_84_no_middleware_wraps_the_requests_messages() -> None:
    async def case() -> None:
        async with rig(verifier=ScriptedVerifier()) as r:
            from starlette.middleware.base import BaseHTTPMiddleware

            from r2v_dist.serving.app import make_app

            application = make_app(r.app, None)  # type: ignore[arg-type]
            layer: Any = application.build_middleware_stack()
            seen = []
            while layer is not None:
                seen.append(type(layer))
                assert not isinstance(layer, BaseHTTPMiddleware)
                layer = getattr(layer, "app", None)
            assert len(seen) >= 3

    asyncio.run(case())
