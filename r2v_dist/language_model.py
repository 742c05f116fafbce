"""The language model of an agent. Invariant: candidates are a pure function of the request.

Equal (model version, prompt, sampling, seed) gives equal candidates. Where an engine cannot promise
that, the stored sample is authoritative. Every back end passes the text of its model through
`action_of`: its result can be hashed, stored and sent as UTF-8, contains no reasoning, and has no
space around it. It is empty where the model gave no action; such an answer is no candidate.
"""

import re
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from r2v_dist.chat import Turn
from r2v_dist.messages import Heard, ToolCall


class ContextLimitReached(Exception):
    """The conversation no longer fits the model: the episode ends, the run goes on."""


TOP_LOGPROBS = 20
"""Number of first-token alternatives that the features use; every engine must be able to return
this number.
"""


@dataclass(frozen=True)
class Sampling:
    """How to sample. `top` is the number of first-token alternatives returned.

    None leaves a setting to the model, which only endpoints support.
    """

    n: int = 1
    temperature: float | None = 0.7
    top_p: float | None = 0.95
    max_tokens: int = 24
    top: int = TOP_LOGPROBS


@dataclass(frozen=True)
class Request:
    """One decision: the conversation so far, the latest message, and the sampling seed.

    `oracle` is the environment's expert, `wrong_action` gives a wrong action by seed where the
    environment knows one, `perturbed` says whether the latest message was perturbed. Only the
    privileged back ends (`expert`, `simulated`) use these three.
    """

    history: tuple[Turn, ...]
    user: Heard
    sampling: Sampling
    seed: int
    oracle: Callable[[], str | None] | None = field(default=None, compare=False)
    wrong_action: Callable[[int], str | None] | None = field(default=None, compare=False)
    perturbed: bool = False


@dataclass(frozen=True)
class Candidate:
    """A proposed action: a result of `action_of`, never empty.

    `token_ids` exclude the end-of-turn mark; `logprobs` (nats) include it where it was sampled.
    Where it calls tools, `calls` are the calls, `content` is what it says beside them, and `text`
    is both (`messages.action_text`).
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    content: str = ""


@dataclass(frozen=True)
class TopTokens:
    """The likeliest tokens at one position, best first: ids (int32) and log-probabilities in nats
    (float32).

    They are most of a stored row. Packed, they reach the rollout store without a Python object for
    every number.
    """

    ids: "array[int]"
    logprobs: "array[float]"

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, float]]) -> "TopTokens":
        """From (token id, log-probability) pairs, best first."""
        ids = array("i")
        logprobs = array("f")
        for token, logprob in pairs:
            ids.append(token)
            logprobs.append(logprob)
        return cls(ids, logprobs)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Answer:
    """The candidates among the K answers, and the likeliest first tokens.

    An answer without an action is no candidate. `generated` counts the tokens of all K answers,
    reasoning included; it is None where the candidates' log-probabilities give the number.
    """

    candidates: tuple[Candidate, ...]
    version: str
    prompt_tokens: int = 0
    first_top: TopTokens = field(default_factory=lambda: TopTokens.of(()))
    generated: int | None = None

    @property
    def sampled_tokens(self) -> int:
        """Tokens generated for this answer."""
        if self.generated is not None:
            return self.generated
        return sum(len(c.logprobs) for c in self.candidates)


class LanguageModel(Protocol):
    """A back end. SLM and teacher are both language models."""

    async def sample(self, request: Request) -> Answer:
        """K candidate actions. Raises RuntimeFailure when the back end cannot answer within its
        deadline.
        """
        ...


_NAME = r"(?:seed:)?(?:think|thinking|thought|reasoning)"
_OPENING = re.compile(rf"\s*[<\[]({_NAME})[>\]]", re.IGNORECASE)
_ANY_OPENING = re.compile(rf"[<\[]{_NAME}[>\]]", re.IGNORECASE)
_CLOSING = re.compile(r"[<\[]/(?:seed:)?think(?:ing)?[>\]]", re.IGNORECASE)


def action_of(text: str) -> str:
    """The action in a model's answer, empty where there is none."""
    return without_reasoning(whole(text)).strip()


def whole(text: str) -> str:
    """The text with unpaired surrogates replaced by U+FFFD: UTF-8 cannot encode them, so no shard
    can store them."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def without_reasoning(text: str) -> str:
    """The text after the reasoning at the start of an answer; empty where the reasoning was cut off
    before its end.

    Some templates open the reasoning in the prompt, so a closing tag without an opening tag ends
    reasoning too.
    """
    rest = text
    while opening := _OPENING.match(rest):
        closing_tag = re.compile(rf"[<\[]/{re.escape(opening[1])}[>\]]", re.IGNORECASE)
        closing = closing_tag.search(rest, opening.end())
        if closing is None:
            return ""
        rest = rest[closing.end() :]
    if rest is not text:
        return rest
    orphan = _CLOSING.search(rest)
    if orphan is None or _ANY_OPENING.search(rest[: orphan.start()]):
        return rest
    return rest[orphan.end() :]
