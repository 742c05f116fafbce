"""Routers decide at every step whether the SLM may act (`escalate=False`) or the teacher must.

A router sees only what a deployed agent sees. One score, one threshold: escalate iff score >= threshold.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from r2v_dist.language_model import Answer
from r2v_dist.seeding import rng_for


@dataclass(frozen=True)
class Decision:
    """What the router chose, and the score it chose by."""

    escalate: bool
    score: float | None


@dataclass(frozen=True)
class Situation:
    """Where the agent stands. `draw` names the random stream of this step (task, z, t), equal for all arms."""

    t: int
    draw: tuple[object, ...]


class Router(Protocol):
    """`uses_proposal`: whether the SLM must propose before the decision, which then costs an SLM call even if it escalates."""

    @property
    def uses_proposal(self) -> bool: ...

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision: ...


@dataclass(frozen=True)
class Constant:
    """SLM-only or teacher-only."""

    escalate: bool
    uses_proposal: bool = False

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision:
        return Decision(self.escalate, None)


@dataclass(frozen=True)
class RandomEscalation:
    """Escalates each step with probability `rate`; arms of different rate use the same draws, so their paths nest."""

    rate: float
    uses_proposal: bool = False

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision:
        draw = rng_for("random-escalation", *situation.draw).random()
        return Decision(draw < self.rate, draw)


@dataclass(frozen=True)
class EntropyThreshold:
    """Escalates when the entropy of the SLM's first token is at least `threshold` nats."""

    threshold: float
    uses_proposal: bool = True

    def decide(self, situation: Situation, proposal: Answer | None) -> Decision:
        assert proposal is not None
        entropy = entropy_of(proposal.first_top.logprobs)
        return Decision(entropy >= self.threshold, entropy)


def entropy_of(logprobs: Sequence[float]) -> float:
    """Entropy in nats of a first token's distribution; what lies beyond the returned top counts as one more outcome."""
    probabilities = [math.exp(logprob) for logprob in logprobs]
    rest = max(0.0, 1.0 - sum(probabilities))
    return -sum(p * math.log(p) for p in [*probabilities, rest] if p > 1e-12)


_ROUTERS: dict[str, Callable[[float], Router]] = {
    "slm_only": lambda _: Constant(escalate=False),
    "teacher_only": lambda _: Constant(escalate=True),
    "random": RandomEscalation,
    "entropy": EntropyThreshold,
}


def build_router(name: str, threshold: float | None) -> Router:
    """The router of an arm. Raises KeyError for a name that does not exist."""
    return _ROUTERS[name](math.nan if threshold is None else threshold)
