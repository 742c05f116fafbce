"""One step of an agent: propose, verify, route. The decision that r2v is about.

`decide` knows no environment, tree, unit or arm. What it asks of models goes through `Models`, so
that an offline episode can answer from memory and a gateway from live servers: the same function
decides in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from r2v_dist.language_model import Answer, Candidate
from r2v_dist.router.policies import Router
from r2v_dist.router.step_context import StepContext
from r2v_dist.verifier.base import preferred


class Models(Protocol):
    """Whom a step may ask, each about the state that the step is at."""

    async def propose(self) -> Answer:
        """The SLM's K candidates."""

    async def verify(self, proposal: Answer) -> tuple[float, ...]:
        """A score of every candidate; empty where nobody verifies."""

    async def teach(self) -> Answer:
        """The teacher's answer."""


@dataclass(frozen=True)
class StepDecision:
    """Who acts and how. `chosen` is None where the actor has no action to offer."""

    actor: str
    chosen: Candidate | None
    teacher_tokens: int = 0
    proposal: Answer | None = None
    verifier_scores: tuple[float, ...] = ()
    score: float | None = None

    @classmethod
    def of_teacher(cls, answer: Answer) -> "StepDecision":
        """The teacher acts with its first candidate."""
        chosen = answer.candidates[0] if answer.candidates else None
        return cls("teacher", chosen, answer.sampled_tokens)


async def decide(router: Router, context: StepContext, models: Models) -> StepDecision:
    """Who acts at this step, and with which action.

    The teacher is asked only when the router escalates. The SLM is asked when it acts, or when the
    router needs its proposal to decide. Raises what the models raise.
    """
    proposal = await models.propose() if router.needs_proposal(context) else None
    scores = await models.verify(proposal) if proposal is not None else ()
    decision = router.decide(replace(context, verifier_scores=scores), proposal)
    if decision.escalate:
        taught = StepDecision.of_teacher(await models.teach())
        return replace(taught, proposal=proposal, verifier_scores=scores, score=decision.score)
    if proposal is None:
        proposal = await models.propose()
        scores = await models.verify(proposal)
    chosen = executed(proposal, scores)
    return StepDecision("slm", chosen, 0, proposal, scores, decision.score)


def executed(proposal: Answer, scores: Sequence[float]) -> Candidate | None:
    """The candidate that acts if the SLM does; None for a proposal without candidates."""
    if not proposal.candidates:
        return None
    texts = [candidate.text for candidate in proposal.candidates]
    return proposal.candidates[preferred(texts, scores)]
