"""The reply of a chat endpoint, read and not indexed: whatever is missing or malformed makes it no
answer, and never an exception of Python.
"""

import json
from dataclasses import dataclass

from r2v_dist.messages import ToolCall

_MOST_TOKENS = 10_000_000
"""Of one reply; an episode's sum has to fit a 32-bit column."""
QUOTED_LETTERS = 4000
"""Letters of a reply that are looked at where it is quoted."""


@dataclass(frozen=True)
class Choice:
    """One answer of an endpoint: its text, why it ended, and the tools that it calls."""

    text: str
    finish_reason: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered to one request."""

    choices: tuple[Choice, ...]
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Unusable(Exception):
    """A reply that is no answer; another request may bring one.

    `wait_s` is what the endpoint asks for. One that is asked too much, and does not say for how
    long, is `crowded`.
    """

    def __init__(self, problem: str, wait_s: float | None = None, crowded: bool = False) -> None:
        super().__init__(problem)
        self.wait_s = wait_s
        self.crowded = crowded


def read_reply(payload: object, text: str) -> Reply:
    """A reply with at least one choice. Raises Unusable, quoting `text`, for anything else."""
    choices = payload.get("choices") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or not isinstance(choices, list) or not choices:
        raise Unusable(f"HTTP 200 without an answer: {text[:QUOTED_LETTERS]}")
    parsed_choices = tuple(_choice(choice) for choice in choices)
    usage = payload.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        parsed_choices, _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    )


def _choice(choice: object) -> Choice:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Unusable(
            f"HTTP 200 with a choice that holds no message: {json.dumps(choice)[:QUOTED_LETTERS]}"
        )
    calls = message.get("tool_calls")
    return Choice(
        _content(message.get("content")),
        str(choice.get("finish_reason") or ""),
        tuple(filter(None, map(_call, calls))) if isinstance(calls, list) else (),
    )


def _call(call: object) -> ToolCall | None:
    """A call of a tool; None where it names none."""
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(name, str):
        return None
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return ToolCall(name, text, str(call.get("id") or ""))


def _content(content: object) -> str:
    """The text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _count(value: object) -> int:
    """A number of tokens; 0 for what cannot be one, and for more than the store keeps."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0
    return int(value) if 0 <= value <= _MOST_TOKENS else 0


def error_of(payload: object) -> str:
    """What an error object says, empty where there is none."""
    if not isinstance(payload, dict):
        return ""
    error = payload.get("error") or (payload.get("detail") if "choices" not in payload else None)
    if not error:
        return ""
    if not isinstance(error, dict):
        return str(error)
    parts = [error.get("message"), error.get("code"), error.get("type")]
    return "; ".join(str(part) for part in parts if part) or json.dumps(error)
