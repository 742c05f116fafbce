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
from r2v_dist.verifier.base import select_candidate


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
    """Who acts and how. `chosen` is None where the actor has no action to offer; `chosen_index` is
    the proposal's candidate that acts if the SLM does, None without one. `held`: hysteresis decided
    against the score.
    """

    actor: str
    chosen: Candidate | None
    teacher_tokens: int = 0
    proposal: Answer | None = None
    verifier_scores: tuple[float, ...] = ()
    chosen_index: int | None = None
    score: float | None = None
    held: bool = False

    @classmethod
    def of_teacher(cls, answer: Answer) -> "StepDecision":
        """The teacher acts with its first candidate."""
        candidate = answer.candidates[0] if answer.candidates else None
        return cls("teacher", candidate, answer.sampled_tokens)


async def decide(router: Router, context: StepContext, models: Models) -> StepDecision:
    """Who acts at this step, and with which action.

    The teacher is asked only when the router escalates. The SLM is asked when it acts, or when the
    router needs its proposal to decide. Raises what the models raise.
    """
    slm = await _of_slm(models) if router.needs_proposal(context) else None
    if slm is not None:
        context = replace(
            context, verifier_scores=slm.verifier_scores, chosen_index=slm.chosen_index or 0
        )
    decision = router.decide(context, slm.proposal if slm else None)
    if not decision.escalate:
        acting = slm or await _of_slm(models)
        return replace(acting, score=decision.score, held=decision.held)
    taught = StepDecision.of_teacher(await models.teach())
    if slm is None:
        return replace(taught, score=decision.score, held=decision.held)
    return replace(
        slm,
        actor=taught.actor,
        chosen=taught.chosen,
        teacher_tokens=taught.teacher_tokens,
        score=decision.score,
        held=decision.held,
    )


async def _of_slm(models: Models) -> StepDecision:
    """The SLM acts with the candidate that the verifier prefers."""
    proposal = await models.propose()
    scores = await models.verify(proposal)
    index = chosen_index(proposal, scores)
    candidate = None if index is None else proposal.candidates[index]
    return StepDecision("slm", candidate, 0, proposal, scores, index)


def chosen_index(proposal: Answer, scores: Sequence[float]) -> int | None:
    """Which candidate acts if the SLM does; None for a proposal without candidates."""
    if not proposal.candidates:
        return None
    return select_candidate([candidate.text for candidate in proposal.candidates], scores)
