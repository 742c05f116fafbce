"""Completions made of candidates: the SLM's, and those of a teacher that is the run's engine."""

import secrets
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from r2v_dist.language_model import Answer, Candidate
from r2v_dist.messages import ToolCall
from r2v_dist.serving.errors import UPSTREAM, ApiError, invalid
from r2v_dist.serving.wire import ChatRequest

Decode = Callable[[Sequence[int]], str]
"""Text of token ids."""
_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Choice:
    """One choice of a completion, and the ids that its text was sampled as."""

    message: dict[str, Any]
    finish_reason: str
    ids: tuple[int, ...] | None
    logprobs: dict[str, Any] | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Completion:
    """A whole completion, to be sent at once or as a stream."""

    id: str
    created: int
    model: str
    choices: tuple[Choice, ...]
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of what is sent."""
        generated = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self.prompt_tokens + generated,
        }

    def body(self, extension: dict[str, Any]) -> dict[str, Any]:
        """The completion as one object."""
        choices = [
            {
                "index": place,
                "message": choice.message,
                "finish_reason": choice.finish_reason,
                "logprobs": choice.logprobs,
            }
            for place, choice in enumerate(self.choices)
        ]
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": self.usage,
            "r2v": extension,
        }

    def chunks(self, extension: dict[str, Any], with_usage: bool) -> list[dict[str, Any]]:
        """The completion as the events of a stream: all of a choice at once, then its end."""
        events = []
        for place, choice in enumerate(self.choices):
            delta = dict(choice.message)
            if "tool_calls" in delta:
                calls = enumerate(delta["tool_calls"])
                delta["tool_calls"] = [{"index": number} | call for number, call in calls]
            events.append(self._chunk(place, delta, None, choice.logprobs))
            events.append(self._chunk(place, {}, choice.finish_reason, None))
        if with_usage:
            for chunk in events:
                chunk["usage"] = None
            events.append(self._base() | {"choices": [], "usage": self.usage})
        events[0]["r2v"] = extension
        return events

    def _base(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }

    def _chunk(
        self, place: int, delta: dict[str, Any], finish: str | None, logprobs: Any
    ) -> dict[str, Any]:
        choice = {"index": place, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return self._base() | {"choices": [choice]}


def completion_of(
    answer: Answer, order: Sequence[int], model: str, chat: ChatRequest, decode: Decode | None
) -> Completion:
    """The completion with the first `chat.n` candidates of an order. Raises ApiError 400 where
    there are fewer candidates, and 502 where there is none: that is no fault of the request."""
    if not order and not chat.tools:
        raise ApiError(502, "the SLM proposes nothing", UPSTREAM, code="no_action")
    if not order:
        message = "no candidate of the SLM can be sent: its calls of tools cannot be read, or break"
        raise ApiError(502, f"{message} tool_choice", UPSTREAM, code="unparsable")
    if chat.n > len(order):
        raise invalid(
            f"n = {chat.n}: there are {len(order)} candidates that can be sent; ask for fewer", "n"
        )
    candidates = [answer.candidates[place] for place in order[: chat.n]]
    choices = tuple(_choice(candidate, answer, chat, decode) for candidate in candidates)
    if len(choices) == 1 and not choices[0].tokens:
        choices = (replace(choices[0], tokens=answer.sampled_tokens),)
    identity = f"chatcmpl-{secrets.token_hex(12)}"
    return Completion(identity, int(time.time()), model, choices, answer.prompt_tokens)


def sending_order(answer: Answer, scores: Sequence[float], chosen: int | None) -> list[int]:
    """Places of the candidates: the one that acts, then the others by their verifier scores."""
    places = [place for place in range(len(answer.candidates)) if place != chosen]
    if scores:
        places.sort(key=lambda place: -scores[place])
    return places if chosen is None else [chosen, *places]


def _choice(
    candidate: Candidate, answer: Answer, chat: ChatRequest, decode: Decode | None
) -> Choice:
    text = candidate.content if candidate.calls else candidate.text
    ids = candidate.token_ids
    reason = "stop"
    if ids is not None and candidate.logprobs and len(candidate.logprobs) == len(ids):
        reason = "length"
    cut = min((at for mark in chat.stop if (at := text.find(mark)) >= 0), default=None)
    if cut is not None:
        text = text[:cut]
        reason = "stop"
        ids = None
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if candidate.calls and cut is None:
        message["content"] = text or None
        message["tool_calls"] = [_shown(call) for call in candidate.calls]
        reason = "tool_calls"
    logprobs = None
    if chat.logprobs and cut is None:
        logprobs = _logprobs(candidate, answer, text, chat.top_logprobs, decode)
    return Choice(message, reason, ids, logprobs, len(candidate.logprobs))


def _shown(call: ToolCall) -> dict[str, Any]:
    identity = "call_" + "".join(secrets.choice(_LETTERS) for _ in range(20))
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": identity, "type": "function", "function": function}


def _logprobs(
    candidate: Candidate, answer: Answer, text: str, top: int, decode: Decode | None
) -> dict[str, Any] | None:
    """One entry a token, as the engine gave it; the texts join to the content. Alternatives are
    known of the first token only; elsewhere the list holds the sampled token alone."""
    ids = candidate.token_ids
    if decode is None or ids is None or candidate.calls:
        return None
    pieces = _pieces(ids, decode)
    if "".join(pieces).strip() != text:
        return None
    start = len("".join(pieces)) - len("".join(pieces).lstrip())
    entries = []
    position = 0
    for place, (token, piece) in enumerate(zip(ids, pieces, strict=True)):
        first, last = max(position, start), min(position + len(piece), start + len(text))
        position += len(piece)
        part = "" if last <= first else text[first - start : last - start]
        entry = _entry(part, candidate.logprobs[place])
        likeliest = [dict(entry)]
        if place == 0:
            pairs = zip(answer.first_top.ids, answer.first_top.logprobs, strict=True)
            likeliest = [_entry(decode([alternative]), value) for alternative, value in pairs]
        entries.append(entry | {"top_logprobs": likeliest[:top]})
        assert token is not None
    return {"content": entries, "refusal": None}


def _pieces(ids: Sequence[int], decode: Decode) -> list[str]:
    """What every token adds to the text; a token that ends within a letter adds nothing yet."""
    pieces = []
    prefix = ""
    for count in range(1, len(ids) + 1):
        text = decode(ids[:count])
        if text.endswith("\ufffd") and count < len(ids):
            pieces.append("")
            continue
        pieces.append(text[len(prefix) :])
        prefix = text
    return pieces


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": float(logprob), "bytes": list(text.encode())}
