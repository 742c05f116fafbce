"""What a language model is to an agent: candidates for the next action, a pure function of the request.

Equal (model version, prompt, sampling, seed) gives equal candidates. Where an engine cannot promise that, the stored
sample is authoritative.
"""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from r2v_dist.chat import Turn


class ContextLimitReached(Exception):
    """The conversation no longer fits the model: the episode ends, the run goes on."""


TOP_LOGPROBS = 20
"""First-token alternatives that the features are made of; an engine must be ready to return as many."""


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

    `oracle` is the environment's expert, `saboteur` gives a wrong action by seed where the environment knows one, `perturbed` says
    whether the latest message was tampered with; only back ends that are privileged by name (`expert`, `simulated`) look at them.
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
    """A proposed action, as `answer_text` lets it through, never empty.

    `token_ids` exclude the end-of-turn mark; `logprobs` (nats) include it where it was sampled.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class TopTokens:
    """The likeliest tokens at one position, best first: ids (int32) and log-probabilities in nats (float32).

    They are most of a stored row: packed, they reach the rollout store without a Python object for every number.
    """

    ids: "array[int]"
    logprobs: "array[float]"

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, float]]) -> "TopTokens":
        """From (token id, log-probability) pairs, best first."""
        known = list(pairs)
        return cls(array("i", [token for token, _ in known]), array("f", [logprob for _, logprob in known]))

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
        """K candidate actions. Raises RuntimeFailure when the back end cannot answer within its deadline."""
        ...
