"""A step at which the router is only watched (`serve.shadow`). Invariant: who answers is fixed, and
what the router would have done is computed as ever, by the same `decide`. An SLM that fails fails
no answer of the teacher.

The teacher is asked while the SLM proposes, so that a watched router costs the slower of the two.
"""

import asyncio
import contextlib
from dataclasses import dataclass, replace

from r2v_dist.agent.step import StepDecision, chosen_index, decide
from r2v_dist.language_model import Answer, ContextLimitReached
from r2v_dist.router.policies import Router
from r2v_dist.router.step_context import StepContext
from r2v_dist.serving.errors import busy
from r2v_dist.serving.step import ALONE, ASKED, Noting, ServedStep, SlmDown, StepOutcome, take


class _WouldAsk(Exception):
    """The router has decided for the teacher."""


@dataclass(frozen=True)
class _Looking:
    """Whom the watched router asks: the SLM as ever, and no teacher."""

    step: ServedStep

    async def propose(self) -> Answer:
        return await self.step.propose()

    async def verify(self, proposal: Answer) -> tuple[float, ...]:
        return await self.step.verify(proposal)

    async def teach(self) -> Answer:
        raise _WouldAsk


@dataclass(frozen=True)
class _Seen:
    """What the router came to. Where it or the SLM cannot decide, the teacher would stand in."""

    would: str
    decision: StepDecision


async def take_watched(
    step: ServedStep, router: Router, context: StepContext, side: str, fallback: bool
) -> StepOutcome:
    """The answer of `side`, with the decision that was not followed. Raises what `take` raises."""
    noting = Noting(router)
    teaching = asyncio.ensure_future(_begun(step)) if side == "teacher" else None
    try:
        view = await _look(step, noting, context)  # in this task, which is told what it predicted
        if teaching is not None:
            await teaching
        outcome = await take(step, ASKED if side == "teacher" else ALONE, context, fallback, True)
        if outcome.decision.actor == "slm" and outcome.decision.chosen is None:
            raise busy("the SLM, which answers alone, has no action that can be sent", "no_action")
    except BaseException:
        _leave(step, teaching)
        raise
    decision = replace(
        view.decision,
        actor=outcome.decision.actor,
        chosen=outcome.decision.chosen,
        teacher_tokens=outcome.decision.teacher_tokens,
    )
    if decision.proposal is None:  # the router needed none; the side that acts may have one
        decision = replace(outcome.decision, score=view.decision.score, held=view.decision.held)
    reason = "shadow" if outcome.reason == "forced" else outcome.reason
    return replace(outcome, decision=decision, reason=reason, would=view.would)


async def _begun(step: ServedStep) -> None:
    """Ask the teacher. What went wrong is kept by the step, and raised where its answer is due."""
    with contextlib.suppress(Exception):
        await step.teach()


def _leave(step: ServedStep, teaching: "asyncio.Future[None] | None") -> None:
    """Nobody waits any more."""
    if teaching is not None:
        teaching.cancel()
    if step.reply is not None:
        step.reply.close()


async def _look(step: ServedStep, router: Noting, context: StepContext) -> _Seen:
    try:
        decision = await decide(router, context, _Looking(step))
        would = "teacher" if decision.chosen is None else "slm"
    except (_WouldAsk, SlmDown, ContextLimitReached):
        would, decision = "teacher", _of_proposal(step)
    return _Seen(would, replace(decision, score=router.score, held=router.held))


def _of_proposal(step: ServedStep) -> StepDecision:
    """The SLM's part of a decision, as far as it was asked."""
    proposal = step.proposal
    if proposal is None:
        return StepDecision("slm", None)
    scores = step.scores or ()
    return StepDecision("slm", None, 0, proposal, scores, chosen_index(proposal, scores))
