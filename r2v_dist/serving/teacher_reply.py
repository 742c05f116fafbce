"""An endpoint's reply on its way to the caller. Invariant: what is sent is what came, event by
event, and never text of another attempt; a stream that ends too early ends with an error.

Only these things change: the usage that the caller did not ask for is kept back, a finish reason
says `tool_calls` where there are calls, and calls without an index get one.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from r2v_dist.serving.sse import DONE, event
from r2v_dist.serving.upstream_reply import Reply, TeacherDown


class Truncated(Exception):
    """The stream ended before its answer did."""


@dataclass
class Heard:
    """What has come so far: the first choice's message, the tokens, and whether that was all."""

    text: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    id: str = ""
    finished: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)

    @property
    def message(self) -> dict[str, Any]:
        """The first choice's message, whole."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.text)}
        if self.calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = [self.calls[place] for place in sorted(self.calls)]
        return message


def whole(payload: dict[str, Any], extension: dict[str, Any]) -> Heard:
    """A reply that came whole; it is completed in place."""
    for choice in payload["choices"]:
        message = choice["message"]
        message.setdefault("role", "assistant")
        if message.get("tool_calls"):
            choice["finish_reason"] = "tool_calls"
    payload["r2v"] = extension
    first = payload["choices"][0]["message"]
    heard = Heard(usage=payload.get("usage"))
    heard.id = str(payload.get("id") or "")
    heard.text.append(_text(first.get("content")))
    heard.calls = dict(enumerate(first.get("tool_calls") or ()))
    return heard


def as_chunks(
    payload: dict[str, Any], extension: dict[str, Any], with_usage: bool
) -> list[dict[str, Any]]:
    """A whole reply as the events of a stream, for an endpoint that does not stream."""
    base = {name: payload.get(name) for name in ("id", "created", "model")}
    base["object"] = "chat.completion.chunk"
    chunks = []
    for choice in payload["choices"]:
        delta = dict(choice["message"])
        calls = enumerate(delta.get("tool_calls") or ())
        delta["tool_calls"] = [{"index": number} | call for number, call in calls] or None
        content = {"index": choice.get("index", 0), "delta": delta, "finish_reason": None}
        end = content | {"delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}
        chunks += [base | {"choices": [content]}, base | {"choices": [end]}]
    if with_usage:
        chunks.append(base | {"choices": [], "usage": payload.get("usage")})
    chunks[0]["r2v"] = extension
    return chunks


async def passing(
    reply: Reply, heard: Heard, extension: dict[str, Any], with_usage: bool
) -> AsyncIterator[bytes]:
    """The events for the caller. Raises Truncated, and TeacherDown from the endpoint."""
    assert reply.events is not None
    first = True
    async for data in reply.events:
        if data == DONE:
            break
        chunk = _chunk(data)
        try:
            changed = _note(chunk, heard)
        except (AttributeError, KeyError, TypeError):
            raise TeacherDown("broken", "an event that is no chunk", billed=True) from None
        if not chunk.get("choices") and not with_usage and "usage" in chunk:
            continue
        if not with_usage and chunk.get("usage"):
            del chunk["usage"]
            changed = True
        if first:
            chunk["r2v"] = extension
            changed, first = True, False
        yield event(msgspec.json.encode(chunk) if changed else data)
    if not heard.begun or heard.begun - heard.finished:
        raise Truncated("the teacher's stream ended before its answer did")
    yield event(DONE)


def _chunk(data: bytes) -> dict[str, Any]:
    try:
        chunk = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TeacherDown("broken", "an event that is no JSON", billed=True) from None
    if not isinstance(chunk, dict) or chunk.get("error"):
        error = chunk.get("error") if isinstance(chunk, dict) else None
        message = error.get("message") if isinstance(error, dict) else error
        raise TeacherDown("broken", " ".join(str(message).split())[:200], billed=True)
    return chunk


def _note(chunk: dict[str, Any], heard: Heard) -> bool:
    """Take note of a chunk; whether it was changed."""
    changed = False
    heard.id = str(chunk.get("id") or heard.id)
    heard.usage = chunk.get("usage") or heard.usage
    for choice in chunk.get("choices") or ():
        place = choice.get("index") or 0
        heard.begun.add(place)
        delta = choice.get("delta") or {}
        changed |= _number(delta)
        if place == 0:
            heard.text.append(_text(delta.get("content")))
            _note_calls(delta, heard)
        if choice.get("finish_reason"):
            heard.finished.add(place)
            if place == 0 and heard.calls and choice["finish_reason"] != "tool_calls":
                choice["finish_reason"] = "tool_calls"
                changed = True
    return changed


def _number(delta: dict[str, Any]) -> bool:
    """Give calls an index where they have none."""
    changed = False
    for number, call in enumerate(delta.get("tool_calls") or ()):
        if call.get("index") is None:
            call["index"] = number
            changed = True
    return changed


def _note_calls(delta: dict[str, Any], heard: Heard) -> None:
    for part in delta.get("tool_calls") or ():
        blank: dict[str, Any] = {"id": "", "type": "function"}
        call = heard.calls.setdefault(part["index"], blank)
        function = call.setdefault("function", {"name": "", "arguments": ""})
        call["id"] = part.get("id") or call["id"]
        piece = part.get("function") or {}
        function["name"] += piece.get("name") or ""
        function["arguments"] += piece.get("arguments") or ""


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(p.get("text", "") for p in content if isinstance(p, dict))
    return content if isinstance(content, str) else ""
