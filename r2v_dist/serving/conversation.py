"""A conversation out of its messages alone. Invariant: equal messages, session and key give equal
hashes, whoever sends them and however often.

    h_0 = H(key, session, tools),  h_i = H(h_(i-1), canonical(message i))

What the gateway knows of an answer stands under the hash that ends with it. Ids of calls do not
count, their places do; reasoning and unknown keys of messages do not count either.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from xxhash import xxh3_128_digest

from r2v_dist.chat import Turn, goal_of
from r2v_dist.language_model import action_of
from r2v_dist.messages import Heard, Message, Messages, ToolCall, action_text, text_of
from r2v_dist.router.step_context import StepContext
from r2v_dist.serving.errors import invalid
from r2v_dist.serving.state import Answered, StateCache
from r2v_dist.serving.wire_messages import text_of_content


@dataclass(frozen=True)
class Conversation:
    """What is to be answered, and all that came before. `known` are the gateway's own earlier
    answers, None for one that it does not know."""

    key: bytes
    root: bytes
    history: tuple[Turn, ...]
    heard: Heard
    known: tuple[Answered | None, ...]
    previous: bytes = b""
    """The hash that ends with the latest answer; empty at the first step."""
    opening: bytes = b""
    """The hash that ends before the first answer: equal at every step of a conversation."""

    @property
    def exact(self) -> bool:
        """Whether every earlier answer is known: then features are those of the offline loop."""
        return None not in self.known

    @property
    def escalations(self) -> int:
        """Earlier answers of the teacher."""
        return sum(answer is not None and answer.actor == "teacher" for answer in self.known)

    def context(self, max_steps: int | None, goal: str | None) -> StepContext:
        """The step as routers see it."""
        observations = [text_of(turn.user) for turn in self.history] + [text_of(self.heard)]
        now = time.time()
        said_goal, observations[0] = goal_of(observations[0], goal)
        return StepContext(
            t=len(self.history),
            draw=(self.root.hex(), 0, len(self.history)),
            goal=said_goal,
            observations=tuple(observations),
            actions=tuple(turn.action for turn in self.history),
            escalations=self.escalations,
            max_steps=max_steps,
            verifier_bests=tuple(math.nan if k is None else k.verifier_best for k in self.known),
            actors=tuple("" if k is None else k.actor for k in self.known),
            scores=tuple(None if k is None else k.score for k in self.known),
            prompt_tokens=tuple(0 if k is None else k.prompt_tokens for k in self.known),
            ages=tuple(math.inf if k is None else now - k.at for k in self.known),
        )

    def after(self, message: Mapping[str, Any]) -> bytes:
        """The hash of the conversation with an answer."""
        return _chained(self.key, message, text_of_content(message.get("content")), 0)


def read_conversation(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    namespace: Sequence[str],
    cache: StateCache,
    own_system: str = "",
) -> Conversation:
    """The conversation of a request. `namespace` separates callers: key and session. A system
    message that is the SLM's own (`own_system`) is left out, as the SLM adds it. Raises ApiError
    400 for an order of messages that no agent has."""
    parts = [*namespace, msgspec.json.encode(tools).decode()]
    root = key = xxh3_128_digest("\x1f".join(parts).encode())
    turns: list[Turn] = []
    answers: list[Answered | None] = []
    heard: list[Message] = []
    calls: dict[str, ToolCall] = {}
    previous = opening = b""
    for place, message in enumerate(messages):
        earlier_key = key
        text = text_of_content(message.get("content"))
        key = _chained(key, message, text, _place(message, calls))
        if message["role"] != "assistant":
            call = calls.get(message.get("tool_call_id") or "") if calls else None
            heard.append(Message(_role(message), text, call))
            continue
        if not _asks(heard):
            raise invalid(f"messages[{place}]: an answer, and nothing was asked", "messages")
        previous = key
        opening = opening or earlier_key
        answer = cache.get(key)
        question = _heard_since(heard, tools if not turns else (), own_system)
        turns.append(_turn(question, text, message, answer))
        answers.append(answer)
        calls = {call["id"]: _call(call) for call in message.get("tool_calls") or ()}
        heard = []
    if not _asks(heard):
        raise invalid("messages: there is no message of a user or a tool to answer", "messages")
    latest = _heard_since(heard, tools if not turns else (), own_system)
    return Conversation(key, root, tuple(turns), latest, tuple(answers), previous, opening or key)


def client_system(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of the caller's system message, None without one."""
    first = messages[0]
    if first["role"] not in ("system", "developer"):
        return None
    return text_of_content(first.get("content"))


def _chained(key: bytes, message: Mapping[str, Any], text: str, place: int) -> bytes:
    line = f"{_role(message)}\x1f{place}\x1f{text}"
    for call in message.get("tool_calls") or ():
        line += f"\x1f{_call(call).canonical}"
    return xxh3_128_digest(key + line.encode("utf-8", "surrogatepass"))


def _role(message: Mapping[str, Any]) -> str:
    role: str = message["role"]
    return "system" if role == "developer" else role


def _place(message: Mapping[str, Any], calls: Mapping[str, ToolCall]) -> int:
    """Which of the last answer's calls a result belongs to, counted from 1."""
    identity = message.get("tool_call_id")
    return list(calls).index(identity) + 1 if identity and identity in calls else 0


def _call(call: Mapping[str, Any]) -> ToolCall:
    function = call["function"]
    return ToolCall(function["name"], function["arguments"], call.get("id") or "")


def _asks(heard: Sequence[Message]) -> bool:
    """Whether a user or a tool has said something."""
    return any(message.role != "system" for message in reversed(heard))


def _heard_since(
    heard: Sequence[Message], tools: Sequence[Mapping[str, Any]], own_system: str
) -> Heard:
    """The messages between two answers; one text where that is all."""
    first = heard[0]
    has_own_system = first.role == "system" and first.content == own_system and first.call is None
    messages = heard[1:] if has_own_system else heard
    if len(messages) == 1 and messages[0].role == "user" and not tools:
        return messages[0].content
    return Messages(tuple(messages), tuple(msgspec.json.encode(tool).decode() for tool in tools))


def turn_of(heard: Heard, message: Mapping[str, Any], answered: Answered | None) -> Turn:
    """An answer in a conversation, with what is known of it."""
    return _turn(heard, text_of_content(message.get("content")), message, answered)


def _turn(heard: Heard, text: str, message: Mapping[str, Any], answer: Answered | None) -> Turn:
    content = action_of(text)
    tool_calls = message.get("tool_calls")
    calls = tuple(_call(call) for call in tool_calls) if tool_calls else ()
    action = action_text(content, calls) if calls else content
    if answer is None:
        return Turn(heard, action, calls=calls, content=content)
    ids = None if answer.ids is None else tuple(answer.ids)
    return Turn(heard, action, answer.actor, ids, calls, content)
