"""What a language model is to an agent: candidates for the next action, a pure function of the
request.

Equal (model version, prompt, sampling, seed) gives equal candidates. Where an engine cannot promise
that, the stored sample is authoritative. Every back end hands the text of its model through
`action_of`: what leaves it can be hashed, stored and sent as UTF-8, holds no reasoning, and has no
space around it. It is empty where the model gave no action; such an answer is no candidate.
"""

import re
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from r2v_dist.chat import Turn


class ContextLimitReached(Exception):
    """The conversation no longer fits the model: the episode ends, the run goes on."""


TOP_LOGPROBS = 20
"""First-token alternatives that the features are made of; an engine must be ready to return as
many.
"""


@dataclass(frozen=True)
class Sampling:
    """How to sample. `top` is the number of first-token alternatives returned.

    None leaves a setting to the model; only endpoints know such models.
    """

    n: int = 1
    temperature: float | None = 0.7
    top_p: float | None = 0.95
    max_tokens: int = 24
    top: int = TOP_LOGPROBS


@dataclass(frozen=True)
class Request:
    """One decision: the conversation so far, the latest message, and the sampling seed.

    `oracle` is the environment's expert, `saboteur` gives a wrong action by seed where the
    environment knows one, `perturbed` says whether the latest message was tampered with; only back
    ends that are privileged by name (`expert`, `simulated`) look at them.
    """

    history: tuple[Turn, ...]
    user: str
    sampling: Sampling
    seed: int
    oracle: Callable[[], str | None] | None = field(default=None, compare=False)
    saboteur: Callable[[int], str | None] | None = field(default=None, compare=False)
    perturbed: bool = False


@dataclass(frozen=True)
class Candidate:
    """A proposed action, as `action_of` lets it through, never empty.

    `token_ids` exclude the end-of-turn mark; `logprobs` (nats) include it where it was sampled.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class TopTokens:
    """The likeliest tokens at one position, best first: ids (int32) and log-probabilities in nats
    (float32).

    They are most of a stored row: packed, they reach the rollout store without a Python object for
    every number.
    """

    ids: "array[int]"
    logprobs: "array[float]"

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, float]]) -> "TopTokens":
        """From (token id, log-probability) pairs, best first."""
        known = list(pairs)
        return cls(
            array("i", [token for token, _ in known]), array("f", [logprob for _, logprob in known])
        )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Answer:
    """The candidates among the K answers, and the likeliest first tokens.

    An answer without an action is no candidate. `generated` counts the tokens of all K answers,
    reasoning included; None where only the candidates' log-probabilities tell.
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
_CLOSING = re.compile(r"[<\[]/(?:seed:)?think(?:ing)?[>\]]", re.IGNORECASE)


def action_of(text: str) -> str:
    """The action in a model's answer, empty where there is none."""
    return without_reasoning(whole(text)).strip()


def whole(text: str) -> str:
    """The text with halves of surrogate pairs replaced by U+FFFD: no encoder takes them, and no
    shard could hold them."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def without_reasoning(text: str) -> str:
    """What follows the reasoning at the start of an answer; nothing where the reasoning was cut off
    before its end.

    Some templates open the reasoning in the prompt, so a closing tag without an opening one ends it
    as well.
    """
    rest = text
    while opening := _OPENING.match(rest):
        closing = re.compile(rf"[<\[]/{re.escape(opening[1])}[>\]]", re.IGNORECASE).search(
            rest, opening.end()
        )
        if closing is None:
            return ""
        rest = rest[closing.end() :]
    orphan = _CLOSING.search(rest) if rest is text else None
    if orphan is None or re.search(rf"[<\[]{_NAME}[>\]]", rest[: orphan.start()], re.IGNORECASE):
        return rest
    return rest[orphan.end() :]
