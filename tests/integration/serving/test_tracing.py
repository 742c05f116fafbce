"""OpenTelemetry spans of answers: names of the conventions, times, parents, and no text unless it
is asked for."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from r2v_dist.errors import UsageError
from r2v_dist.serving.tracing import Tracing, provider_of_environment
from tests.gateway_rig import (
    USER,
    Rig,
    ScriptedSlm,
    ScriptedVerifier,
    StubTeacher,
    entropy_policy,
    rig,
)
from tests.integration.serving.test_equality import MAX_STEPS, POLICY, proposals
from tests.runs import ROOT

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
PRICES = {"slm": 1.0, "slm_prompt": 0.5, "teacher": 30.0, "teacher_prompt": 10.0}


def traced(r: Rig) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(r.gateway, provider)
    r.gateway.listeners.append(tracing.answered)
    r.app.failures.append(tracing.failed)
    return exporter


async def answered(r: Rig, **given: Any) -> httpx.Response:
    told = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-r2v-session": "agent-7"}
    async with httpx.AsyncClient(base_url=r.url, timeout=20) as http:
        body = {"model": "r2v", "messages": USER} | given
        return await http.post("/v1/chat/completions", json=body, headers=told)


def by_name(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("threshold", [-1000.0, 1000.0])
def test_an_answer_is_a_span_with_its_models_below_it(stream: bool, threshold: float) -> None:
    async def case() -> None:
        slm = ScriptedSlm(propose=proposals, delay_s=0.01)
        teacher = StubTeacher(delay_s=0.01, between_s=0.02)
        parts: dict[str, Any] = {"policy": POLICY, "max_steps": MAX_STEPS, "prices": PRICES}
        async with rig(teacher, slm, ScriptedVerifier(), **parts) as r:
            exporter = traced(r)
            asked = {"r2v": {"threshold": threshold}, "temperature": 0.5, "stream": stream}
            response = await answered(r, **asked)
            asks = threshold < 0
            spans = by_name(exporter.get_finished_spans())
            models = ["chat slm", "score verifier", *(["chat teacher"] if asks else [])]
            assert list(spans) == [*models, "chat r2v"]
            whole = spans["chat r2v"]
            assert (whole.parent and whole.parent.span_id) == int(CALLER, 16)
            assert {span.context.trace_id for span in spans.values()} == {int(TRACE, 16)}
            for name in models:
                span = spans[name]
                assert (span.parent and span.parent.span_id) == whole.context.span_id
                assert whole.start_time <= span.start_time < span.end_time <= whole.end_time
            told = dict(whole.attributes or {})
            assert told["gen_ai.operation.name"] == "chat"
            assert told["gen_ai.request.model"] == "r2v"
            assert told["gen_ai.request.temperature"] == 0.5
            assert told["gen_ai.conversation.id"] == "agent-7"
            assert told["gen_ai.response.model"] == ("fine" if asks else "r2v/slm:slm-1")
            assert told["r2v.route"] == ("teacher" if asks else "slm")
            assert told["r2v.threshold"] == threshold
            if not stream:
                body = response.json()
                assert told["r2v.risk"] == body["r2v"]["risk"]
                assert told["gen_ai.response.id"] == body["id"]
                usage = body["usage"]
                assert told["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
                assert told["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
            if asks:
                assert told["r2v.cost.teacher"] == pytest.approx((11 * 10 + 4 * 30) / 1e6)
                waited_ns = spans["chat teacher"].end_time - spans["chat teacher"].start_time
                assert waited_ns > (50e6 if stream else 9e6)  # a stream is at work to its end

    asyncio.run(case())


@pytest.mark.parametrize("asked_for", [False, True])
def test_text_is_in_spans_only_where_it_was_asked_for(asked_for: bool) -> None:
    async def case() -> None:
        call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        teacher = StubTeacher(calls=[call])
        async with rig(teacher, otel=True, otel_messages=asked_for) as r:
            exporter = traced(r)
            tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
            await answered(r, model="r2v-teacher", tools=[tool])
            [whole] = [s for s in exporter.get_finished_spans() if s.name == "chat r2v-teacher"]
            told = dict(whole.attributes or {})
            assert ("door" in str(told)) == asked_for
            if asked_for:
                assert '"role":"user","parts":[{"type":"text"' in told["gen_ai.input.messages"]
                assert '"type":"tool_call","id":"c","name":"look"' in told["gen_ai.output.messages"]

    asyncio.run(case())


def test_a_stream_that_breaks_is_a_span_in_error() -> None:
    async def case() -> None:
        async with rig(model="cut") as r:
            exporter = traced(r)
            await answered(r, model="r2v-teacher", stream=True)
            whole = by_name(exporter.get_finished_spans())["chat r2v-teacher"]
            assert whole.status.status_code is StatusCode.ERROR
            assert dict(whole.attributes or {})["error.type"] == "truncated"

    asyncio.run(case())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("given", "name", "error", "status"),
    [
        ({"model": "gpt-nope"}, "chat", "model_not_found", 404),
        ({"n": 99}, "chat r2v", "invalid_request_error", 400),
        ({"r2v": {"operating_point": "best"}}, "chat r2v", "unknown_operating_point", 400),
        ({"r2v": {"fallback": False}}, "chat r2v", "status", 503),
    ],
)
def test_a_request_that_fails_is_one_span_in_error(
    given: dict[str, Any], name: str, error: str, status: int, stream: bool
) -> None:
    async def case() -> None:
        policy = entropy_policy(-1e9)
        async with rig(model="status-500", policy=policy, upstream={"retries": 0}) as r:
            exporter = traced(r)
            response = await answered(r, stream=stream, **given)
            assert response.status_code == status
            [span] = [s for s in exporter.get_finished_spans() if s.name.startswith(name)]
            told = dict(span.attributes or {})
            assert (span.parent and span.parent.span_id) == int(CALLER, 16)
            assert span.status.status_code is StatusCode.ERROR
            if "r2v.status" not in told:  # nobody had decided
                assert (told["error.type"], told["http.response.status_code"]) == (error, status)
                assert 'r2v_failures_total{status="' + str(status) in r.watch.exposition().decode()
            assert ("r2v.status" in told) == ("n" in given)

    asyncio.run(case())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/decision"])
def test_a_caller_that_leaves_before_the_decision_is_a_span(path: str) -> None:
    async def case() -> None:
        async with rig(slm=ScriptedSlm(delay_s=30)) as r:
            exporter = traced(r)
            async with httpx.AsyncClient(base_url=r.url, timeout=0.5) as http:
                with pytest.raises(httpx.ReadTimeout):
                    await http.post(path, json={"model": "r2v", "messages": USER})
            async with asyncio.timeout(30):
                while not (spans := exporter.get_finished_spans()):
                    await asyncio.sleep(0.02)
            [told] = [dict(span.attributes or {}) for span in spans]
            assert told["error.type"] == "cancelled"
            assert "http.response.status_code" not in told
            assert r.app.under_way == 0

    asyncio.run(case())


def test_the_environment_says_where_spans_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console,none")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway-of-tests")
    provider = provider_of_environment()
    assert provider.resource.attributes["service.name"] == "gateway-of-tests"
    provider.shutdown()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    with pytest.raises(UsageError, match="carrier-pigeon"):
        provider_of_environment()


def test_nothing_is_imported_where_nobody_traces() -> None:
    code = "import sys, r2v_dist.pipeline.serving; print('opentelemetry' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]
