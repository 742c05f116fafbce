"""How a score becomes a decision."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from r2v_dist.language_model import Answer
from r2v_dist.router.step_context import StepContext


@dataclass(frozen=True)
class Decision:
    """What the router chose, and the score it chose by. `held`: the score alone would have chosen
    otherwise."""

    escalate: bool
    score: float | None
    held: bool = False


class Router(Protocol):
    """`needs_proposal`: whether the SLM must propose before the decision, which then costs an SLM
    call even if it escalates.
    """

    def needs_proposal(self, context: StepContext) -> bool: ...

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision: ...


@dataclass(frozen=True)
class Constant:
    """SLM-only or teacher-only."""

    escalate: bool

    def needs_proposal(self, context: StepContext) -> bool:
        return False

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        return Decision(self.escalate, None)


@dataclass(frozen=True)
class RandomEscalation:
    """Escalates where a draw is below `rate`; arms of different rate use the same draws, so their
    paths nest.
    """

    rate: float
    draw: Callable[[StepContext], float]

    def needs_proposal(self, context: StepContext) -> bool:
        return False

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        number = self.draw(context)
        return Decision(number < self.rate, number)


@dataclass(frozen=True)
class ProposalThreshold:
    """Escalates when a score of the context and the SLM's proposal is at least `threshold`."""

    threshold: float
    score: Callable[[StepContext, Answer], float]

    def needs_proposal(self, context: StepContext) -> bool:
        return True

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        assert proposal is not None
        score = self.score(context, proposal)
        return Decision(score >= self.threshold, score)


@dataclass(frozen=True)
class ContextThreshold:
    """Escalates when a score of the context alone is at least `threshold`: an escalation costs no
    SLM call.
    """

    threshold: float
    score: Callable[[StepContext], float]

    def needs_proposal(self, context: StepContext) -> bool:
        return False

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        score = self.score(context)
        return Decision(score >= self.threshold, score)


@dataclass(frozen=True)
class Latched:
    """The first escalation of `router` keeps the teacher to the end of the episode."""

    router: Router

    def needs_proposal(self, context: StepContext) -> bool:
        return context.escalations == 0 and self.router.needs_proposal(context)

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        return (
            Decision(True, None) if context.escalations else self.router.decide(context, proposal)
        )


@dataclass(frozen=True)
class Capped:
    """Never makes more than `budget` teacher calls in an episode, whatever `router` says."""

    router: Router
    budget: int

    def needs_proposal(self, context: StepContext) -> bool:
        return self.router.needs_proposal(context)

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        decision = self.router.decide(context, proposal)
        return Decision(False, decision.score) if context.escalations >= self.budget else decision
