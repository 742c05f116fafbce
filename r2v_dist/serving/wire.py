"""A chat completion request, as it is sent. Invariant: whatever passes `read_request` can be shown
to both sides; whatever does not is a 400 that names the key.

Unknown keys are kept in `body`: they go to the teacher, and are told as ignored where the SLM acts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from r2v_dist.serving.controls import Controls, read_controls
from r2v_dist.serving.errors import ApiError, invalid
from r2v_dist.serving.wire_messages import check_messages

SLM_HONOURS = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "n", "seed", "stop", "r2v"),
        *("tools", "tool_choice", "parallel_tool_calls", "logprobs"),
        *("max_tokens", "max_completion_tokens"),
    }
)
"""Keys that mean on the SLM route what they say. Others are told as ignored."""
_HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention"),
    }
)
"""Keys that are not about the answer; nobody needs to be told of them."""
MOST_CHOICES = 128


@dataclass(frozen=True)
class ChatRequest:
    """A request that was read. `body` is all of it, `max_tokens` None where it sets none."""

    body: dict[str, Any]
    controls: Controls
    stream: bool
    include_usage: bool
    n: int
    seed: int | None
    max_tokens: int | None
    stop: tuple[str, ...]
    logprobs: bool
    top_logprobs: int
    tools: tuple[dict[str, Any], ...]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as it was sent."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    @property
    def ignored_by_slm(self) -> list[str]:
        """Keys that the SLM route does not honour."""
        names = [name for name, value in self.body.items() if value is not None]
        return [name for name in names if name not in SLM_HONOURS | _HARMLESS]


def read_request(raw: bytes, headers: Mapping[str, str]) -> ChatRequest:
    """The request in a body. Raises ApiError."""
    body = decode_object(raw)
    controls = read_controls(body, headers)
    check_messages(body.get("messages"))
    stream = _flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise invalid("stream_options must be an object", "stream_options")
    if options and not stream:
        raise invalid("stream_options needs stream: true", "stream_options")
    top = _whole(body, "top_logprobs", 0, 20)
    if top is not None and not _flag(body, "logprobs"):
        raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
    return ChatRequest(
        body=body,
        controls=controls,
        stream=stream,
        include_usage=bool(options and options.get("include_usage")),
        n=_whole(body, "n", 1, MOST_CHOICES) or 1,
        seed=_whole(body, "seed", -(2**63), 2**63 - 1),
        max_tokens=_max_tokens(body),
        stop=_stop(body),
        logprobs=_flag(body, "logprobs"),
        top_logprobs=top or 0,
        tools=_tools(body),
    )


def decode_object(raw: bytes) -> dict[str, Any]:
    """A body as an object. Raises ApiError 400."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(body, dict):
        raise invalid("the body must be a JSON object")
    return body


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{name} must be true or false", name)
    return bool(value)


def _whole(body: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise invalid(f"{name} must be a whole number from {least} to {most}", name)
    return value


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    old = _whole(body, "max_tokens", 1, 2**31)
    new = _whole(body, "max_completion_tokens", 1, 2**31)
    if old is not None and new is not None and old != new:
        message = f"max_tokens = {old} and max_completion_tokens = {new}; give one"
        raise invalid(message, "max_tokens")
    return old if new is None else new


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    value = body.get("stop")
    marks = [value] if isinstance(value, str) else value or []
    if not isinstance(marks, list) or len(marks) > 4 or not all(isinstance(m, str) for m in marks):
        raise invalid("stop must be a string or up to 4 strings", "stop")
    return tuple(mark for mark in marks if mark)


def _tools(body: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    tools = body.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise invalid("tools must be a list", "tools")
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        has_name = isinstance(function, dict) and isinstance(function.get("name"), str)
        if not isinstance(tool, dict) or tool.get("type") != "function" or not has_name:
            raise invalid(f"tools[{place}] must be a function with a name", f"tools[{place}]")
    _check_choice(body, {tool["function"]["name"] for tool in tools})
    return tuple(tools)


def _check_choice(body: Mapping[str, Any], names: set[str]) -> None:
    choice = body.get("tool_choice")
    if choice is None or choice in ("none", "auto", "required"):
        return
    function = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(function, dict) or function.get("name") not in names:
        raise invalid(
            "tool_choice must be none, auto, required or a declared function", "tool_choice"
        )


def too_large(limit_mib: float) -> ApiError:
    """The error for a body beyond the limit."""
    message = f"the body is larger than {limit_mib:g} MiB (serve.body_mib)"
    return ApiError(413, message, code="request_too_large")
