"""The messages of a request: what each may hold, and that calls of tools and their results pair."""

from collections.abc import Mapping
from typing import Any

from r2v_dist.serving.errors import ApiError, invalid

_ROLES = ("system", "developer", "user", "assistant", "tool")
_PLAIN = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("text", "input_text", "output_text")


def check_messages(messages: object) -> None:
    """Raises ApiError 400 for the first message that is wrong."""
    if not isinstance(messages, list) or not messages:
        raise invalid("messages must be a list with at least one message", "messages")
    open_calls: dict[str, str] = {}
    for place, message in enumerate(messages):
        if not open_calls and _is_plain(message):
            continue
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            raise invalid(f"{where} must be an object", where)
        role = message.get("role")
        if role not in _ROLES:
            raise invalid(f"{where}.role must be one of {', '.join(_ROLES)}", f"{where}.role")
        _check_content(message, where)
        if role == "tool":
            _close(open_calls, message, where)
        elif open_calls:
            call_id = next(iter(open_calls))
            raise invalid(
                f"{open_calls[call_id]} calls {call_id[:60]!r}, and no result follows", where
            )
        if role == "assistant":
            _open(open_calls, message, where)
        elif message.get("tool_calls"):
            raise invalid(f"{where}.tool_calls: only an answer calls tools", f"{where}.tool_calls")
        if not isinstance(message.get("tool_call_id") or "", str):
            raise invalid(f"{where}.tool_call_id must be a string", f"{where}.tool_call_id")
    if open_calls:
        call_id = next(iter(open_calls))
        raise invalid(
            f"{open_calls[call_id]} calls {call_id[:60]!r}, and no result follows", "messages"
        )
    if messages[-1]["role"] == "assistant":
        raise invalid("the last message is an answer; there is nothing to answer", "messages")


def _is_plain(message: object) -> bool:
    """Whether a message is a text of anybody's who calls no tool, which nearly all are."""
    return (
        isinstance(message, dict)
        and isinstance(message.get("content"), str)
        and message.get("role") in _PLAIN
        and not message.get("tool_calls")
        and not message.get("tool_call_id")
    )


def text_of_content(content: object) -> str:
    """The text of a message's content: a string, or its text parts joined without anything
    between."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(part.get("text") or part.get("refusal") or "" for part in content)


def _check_content(message: Mapping[str, Any], where: str) -> None:
    content = message.get("content")
    place = f"{where}.content"
    if isinstance(content, str):
        return
    if content is None:
        if message["role"] == "assistant":
            return
        raise invalid(f"{place} must be a string or a list of parts", place)
    if not isinstance(content, list):
        raise invalid(f"{place} must be a string or a list of parts", place)
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            continue
        if kind == "refusal" and isinstance(part.get("refusal"), str):
            continue
        message_text = f"{place}[{number}]: only parts of text are understood, not {kind!r}"
        raise ApiError(400, message_text, param=place, code="unsupported_content")


def _open(calls: dict[str, str], message: Mapping[str, Any], where: str) -> None:
    """Note the calls of an answer."""
    tool_calls = message.get("tool_calls") or []
    if not isinstance(tool_calls, list):
        raise invalid(f"{where}.tool_calls must be a list", f"{where}.tool_calls")
    for number, call in enumerate(tool_calls):
        place = f"{where}.tool_calls[{number}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(function, dict):
            raise invalid(f"{place} must be a call of a function", place)
        if not isinstance(function.get("name"), str) or not isinstance(
            function.get("arguments"), str
        ):
            raise invalid(f"{place}.function needs a name and arguments, both strings", place)
        identity = call.get("id")
        if not isinstance(identity, str) or not identity:
            raise invalid(f"{place}.id must be a string", f"{place}.id")
        if identity in calls:
            raise invalid(f"{place}.id {identity[:60]!r} stands twice", f"{place}.id")
        calls[identity] = place


def _close(calls: dict[str, str], message: Mapping[str, Any], where: str) -> None:
    """Take note of a result."""
    identity = message.get("tool_call_id")
    if not isinstance(identity, str) or identity not in calls:
        raise invalid(
            f"{where}.tool_call_id {str(identity)[:60]!r} answers no open call",
            f"{where}.tool_call_id",
        )
    del calls[identity]
