"""OpenTelemetry spans of answers (`serve.otel`). Invariant: a span is made after the last byte,
from what is known of the answer anyway, so that tracing takes no time of it; no text of a
conversation is in a span unless `serve.otel_messages` asks for it.

Names are those of the semantic conventions for generative AI (`gen_ai.*`); what they have no name
for is `r2v.*`. An answer is a span of the kind SERVER below the caller's own (`traceparent`); below
it stand the SLM's sampling, the verifier's scoring and the teacher's answer.
"""

import os
import time
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import msgspec
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from r2v_dist.errors import UsageError
from r2v_dist.serving.attempt import Failure
from r2v_dist.serving.begun import Begun
from r2v_dist.serving.costs import cost_of
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.wire_messages import text_of_content

_OPERATION = "gen_ai.operation.name"
_PROVIDER = "gen_ai.provider.name"
_CARRIER = TraceContextTextMapPropagator()
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_ASKED = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens")
"""Keys of a request that the conventions name as it does."""


class Tracing:
    """A listener of a gateway."""

    def __init__(self, gateway: Gateway, provider: TracerProvider) -> None:
        self._gateway = gateway
        self._tracer: Tracer = provider.get_tracer("r2v")

    def answered(self, begun: Begun) -> None:
        """Make the spans of an answer that has ended."""
        end_s = time.perf_counter()
        origin_ns = time.time_ns() - int(end_s * 1e9)
        model = str(begun.chat.body.get("model"))
        span = self._tracer.start_span(
            f"chat {model}",
            _CARRIER.extract(begun.carrier),
            SpanKind.SERVER,
            _known(_request(begun) | self._answer(begun)),
            start_time=origin_ns + int(begun.started * 1e9),
        )
        if begun.status not in ("served", "decision"):
            span.set_attribute("error.type", begun.status)
            span.set_status(StatusCode.ERROR, begun.status)
        self._models(begun, set_span_in_context(span), origin_ns, end_s)
        span.end(origin_ns + int(end_s * 1e9))

    def failed(self, failure: Failure) -> None:
        """Make the span of a request that ended without a decision."""
        origin_ns = time.time_ns() - int(time.perf_counter() * 1e9)
        request = {"gen_ai.request.model": failure.model or None}
        outcome = {"error.type": failure.error, "http.response.status_code": failure.status}
        span = self._tracer.start_span(
            f"chat {failure.model}".rstrip(),
            _CARRIER.extract(failure.carrier),
            SpanKind.SERVER,
            _known(
                {_OPERATION: "chat", _PROVIDER: "r2v", "url.path": failure.path} | request | outcome
            ),
            start_time=origin_ns + int(failure.started * 1e9),
        )
        span.set_status(StatusCode.ERROR, failure.error)
        span.end(origin_ns + int(failure.ended * 1e9))

    def _answer(self, begun: Begun) -> dict[str, Any]:
        decision = begun.outcome.decision
        cost = cost_of(begun, self._gateway.config.prices)
        attributes = {
            "gen_ai.response.model": self._who(begun, begun.route),
            "gen_ai.response.id": begun.id,
            "gen_ai.usage.input_tokens": begun.usage.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": begun.usage.get("completion_tokens"),
            "r2v.route": begun.route,
            "r2v.reason": begun.outcome.reason,
            "r2v.would": begun.outcome.would,
            "r2v.status": begun.status,
            "r2v.risk": begun.risk,
            "r2v.score": decision.score,
            "r2v.threshold": begun.threshold,
            "r2v.operating_point": begun.point.name,
            "r2v.features": "exact" if begun.conversation.exact else "rebuilt",
            "r2v.calibrated": not begun.uncalibrated,
            "r2v.uncalibrated": list(begun.uncalibrated),
            "r2v.step": begun.context.t,
            "r2v.escalations": begun.context.escalations,
            "r2v.router.version": self._gateway.policy.version,
            "r2v.overhead_ms": begun.overhead_ms,
            "r2v.cost.slm": cost.slm,
            "r2v.cost.teacher": cost.teacher,
        }
        if begun.completion is not None:
            reasons = [choice.finish_reason for choice in begun.completion.choices]
            attributes["gen_ai.response.finish_reasons"] = reasons
        if self._gateway.config.otel_messages:
            attributes |= _messages(begun)
        return attributes

    def _models(self, begun: Begun, parent: Context, origin_ns: int, end_s: float) -> None:
        """A span for every wait. A teacher that streams is at work until the last byte."""
        streams = begun.outcome.reply is not None and begun.outcome.reply.events is not None
        for wait in begun.step.waits:
            until = end_s if streams and wait.who == "teacher" else wait.ended
            span = self._tracer.start_span(
                f"score {wait.who}" if wait.who == "verifier" else f"chat {wait.who}",
                parent,
                SpanKind.CLIENT,
                _known(self._of_model(begun, wait.who)),
                start_time=origin_ns + int(wait.started * 1e9),
            )
            span.end(origin_ns + int(until * 1e9))

    def _of_model(self, begun: Begun, who: str) -> dict[str, Any]:
        if who == "verifier":
            scores = begun.outcome.decision.verifier_scores
            best = float(max(scores)) if scores else None
            return {"r2v.verifier.candidates": len(scores), "r2v.verifier.best": best}
        attributes: dict[str, Any] = {
            _OPERATION: "chat",
            _PROVIDER: "r2v",
            "gen_ai.request.model": self._who(begun, who),
        }
        if who == "slm" and (proposal := begun.step.proposal) is not None:
            attributes["gen_ai.usage.input_tokens"] = proposal.prompt_tokens
            attributes["gen_ai.usage.output_tokens"] = proposal.sampled_tokens
            attributes["gen_ai.request.choice.count"] = self._gateway.slm.sampling.n
        if who == "teacher" and (reply := begun.outcome.reply) is not None:
            attributes[_PROVIDER] = "openai"  # as its protocol; whose it is, nobody says
            attributes["gen_ai.usage.input_tokens"] = begun.usage.get("prompt_tokens")
            attributes["gen_ai.usage.output_tokens"] = begun.usage.get("completion_tokens")
            attributes["r2v.attempts"] = reply.attempts
        return attributes

    def _who(self, begun: Begun, side: str) -> str:
        gateway = self._gateway
        return f"r2v/slm:{gateway.slm.version}" if side == "slm" else gateway.teacher.version


def provider_of_environment() -> TracerProvider:
    """Spans go where the environment says: `OTEL_TRACES_EXPORTER` (`otlp` by default, `console`,
    `none`), `OTEL_EXPORTER_OTLP_ENDPOINT` and the others of the specification. Raises UsageError
    for an exporter that is not installed."""
    has_name = "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    attributes = {} if has_name or os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "r2v"}
    provider = TracerProvider(resource=Resource.create(attributes))
    for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        if name.strip() not in ("", "none"):
            provider.add_span_processor(BatchSpanProcessor(_exporter(name.strip())))
    return provider


def _exporter(name: str) -> SpanExporter:
    entry_name = name
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        entry_name = _PROTOCOLS.get(protocol, protocol)
    entries = entry_points(group="opentelemetry_traces_exporter", name=entry_name)
    if not entries:
        names = sorted(entry_points(group="opentelemetry_traces_exporter").names)
        raise UsageError(
            f"OTEL_TRACES_EXPORTER = {name} ({entry_name}): no such exporter is installed; there "
            f"are {', '.join(names)}, or set serve.otel=false"
        )
    exporter: SpanExporter = next(iter(entries)).load()()
    return exporter


def _request(begun: Begun) -> dict[str, Any]:
    chat = begun.chat
    attributes: dict[str, Any] = {
        _OPERATION: "chat",
        _PROVIDER: "r2v",
        "gen_ai.request.model": str(chat.body.get("model")),
        "gen_ai.request.stream": chat.stream,
        "gen_ai.request.seed": chat.seed,
        "gen_ai.request.stop_sequences": list(chat.stop) or None,
        "gen_ai.request.choice.count": chat.n if chat.n > 1 else None,
        "gen_ai.conversation.id": begun.drawn_by,
    }
    numbers = {name: chat.body.get(name) for name in _ASKED}
    attributes |= {
        f"gen_ai.request.{name}": value
        for name, value in numbers.items()
        if isinstance(value, int | float) and abs(value) < 2**31
    }
    return attributes


def _messages(begun: Begun) -> dict[str, str]:
    output: list[dict[str, Any]] = [begun.heard.message]
    if begun.completion is not None:
        output = [choice.message for choice in begun.completion.choices]
    messages_by_way = {"input": begun.chat.messages, "output": output}
    return {
        f"gen_ai.{way}.messages": msgspec.json.encode(
            [_parts(message) for message in messages]
        ).decode()
        for way, messages in messages_by_way.items()
    }


def _parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as the conventions write it."""
    text = text_of_content(message.get("content"))
    parts: list[dict[str, Any]] = []
    if message["role"] == "tool":
        identity = message.get("tool_call_id")
        parts.append({"type": "tool_call_response", "id": identity, "response": text})
    elif text:
        parts.append({"type": "text", "content": text})
    for call in message.get("tool_calls") or ():
        parts.append({"type": "tool_call", "id": call.get("id"), **call["function"]})
    return {"role": message["role"], "parts": parts}


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What is known: attributes hold no null."""
    return {name: value for name, value in attributes.items() if value is not None}
