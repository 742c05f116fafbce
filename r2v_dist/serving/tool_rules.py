"""Whether an agent could act on a candidate: its calls name declared tools, their arguments can be
read, and the request's `tool_choice` and `parallel_tool_calls` are kept."""

import json

from r2v_dist.language_model import Candidate
from r2v_dist.messages import ToolCall
from r2v_dist.serving.wire import ChatRequest


def eligible(candidate: Candidate, chat: ChatRequest) -> bool:
    """Whether a candidate may be sent."""
    calls = candidate.calls
    if not chat.tools:
        return not calls
    choice = chat.body.get("tool_choice") or "auto"
    if choice == "none":
        return not calls
    if not calls:
        return choice == "auto"
    if chat.body.get("parallel_tool_calls") is False and len(calls) > 1:
        return False
    names = {tool["function"]["name"] for tool in chat.tools}
    if isinstance(choice, dict):
        names = {choice["function"]["name"]}
    return all(call.name in names and _readable(call) for call in calls)


def _readable(call: ToolCall) -> bool:
    try:
        return isinstance(json.loads(call.arguments or "{}"), dict)
    except (ValueError, RecursionError):
        return False
