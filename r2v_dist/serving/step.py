"""One step as the gateway takes it: what `agent.step.decide` asks of models, answered live.

Invariant: the SLM is sampled once and its candidates are scored once, whatever happens to the
teacher; so the candidate that acts in the teacher's place is at hand.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from r2v_dist.agent.step import StepDecision, decide
from r2v_dist.errors import RuntimeFailure, warn
from r2v_dist.language_model import Answer, Candidate, ContextLimitReached
from r2v_dist.router.policies import Constant, Decision, Router
from r2v_dist.router.step_context import StepContext
from r2v_dist.serving.budget import Budgets, BudgetSpent, Limit
from r2v_dist.serving.conversation import Conversation
from r2v_dist.serving.errors import busy, invalid
from r2v_dist.serving.sides import Slm, Teacher
from r2v_dist.serving.tool_rules import eligible
from r2v_dist.serving.upstream_reply import Reply, TeacherDown, TeacherRefused
from r2v_dist.serving.wire import ChatRequest

ALONE = Constant(escalate=False)
ASKED = Constant(escalate=True)

T = TypeVar("T")
_CALLED = {"slm": "SLM", "verifier": "verifier"}


@dataclass(frozen=True)
class Wait:
    """For whom a step waited (`slm`, `verifier`, `teacher`), in seconds of `time.perf_counter`. A
    teacher that streams is waited for until its first byte."""

    who: str
    started: float
    ended: float


class _DryRun(Exception):
    """The teacher would have been asked."""


class SlmDown(Exception):
    """The SLM or its verifier failed, or gave no answer in time."""


@dataclass(frozen=True)
class StepOutcome:
    """Who acts, and why. `reason` is `router` where the router's decision stood. `would` is who
    would have acted where this was a dry run, or where the router is only watched. `reply` is an
    endpoint's answer, begun."""

    decision: StepDecision
    reason: str
    would: str | None = None
    reply: Reply | None = None
    taught: Answer | None = None


class Noting:
    """A router that keeps its decision: what stands in for a side keeps the score."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.score: float | None = None
        self.held = False

    def needs_proposal(self, context: StepContext) -> bool:
        return self._router.needs_proposal(context)

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        decision = self._router.decide(context, proposal)
        self.score = decision.score
        self.held = decision.held
        return decision


class ServedStep:
    """One decision about one request."""

    def __init__(
        self,
        chat: ChatRequest,
        conversation: Conversation,
        slm: Slm,
        teacher: Teacher,
        budgets: Budgets,
        limits: Sequence[Limit],
        deadline_s: float,
    ) -> None:
        self._chat = chat
        self._conversation = conversation
        self._slm = slm
        self._teacher = teacher
        self._budgets = budgets
        self._limits = limits
        self._deadline_s = deadline_s
        self.proposal: Answer | None = None
        self.scores: tuple[float, ...] | None = None
        self.reply: Reply | None = None
        self.taught: Answer | None = None
        self._told: Answer | Exception | None = None
        self.waits: list[Wait] = []
        self.unparsable = 0
        """Candidates that were left out because no agent could act on them."""

    @property
    def model_s(self) -> float:
        """Seconds spent waiting for models, of which several may be waited for at a time."""
        total, until = 0.0, -math.inf
        for wait in sorted(self.waits, key=lambda wait: wait.started):
            total += max(0.0, wait.ended - max(until, wait.started))
            until = max(until, wait.ended)
        return total

    async def propose(self) -> Answer:
        """The SLM's candidates; those that break the rules of the request's tools are left out."""
        if self.proposal is None:
            request = self._slm.request(self._chat, self._conversation)
            answer = await self._timed(lambda: self._slm.model.sample(request), "slm")
            candidates = tuple(c for c in answer.candidates if eligible(c, self._chat))
            self.unparsable = len(answer.candidates) - len(candidates)
            if self.unparsable:
                generated = answer.sampled_tokens
                answer = replace(answer, candidates=candidates, generated=generated)
            self.proposal = answer
        return self.proposal

    async def verify(self, proposal: Answer) -> tuple[float, ...]:
        """The verifier's scores."""
        verifier = self._slm.verifier
        if verifier is None:
            return ()
        if self.scores is None:
            history, heard = self._conversation.history, self._conversation.heard
            candidates = proposal.candidates
            self.scores = await self._timed(
                lambda: verifier.score(history, heard, candidates), "verifier"
            )
        return self.scores

    async def teach(self) -> Answer:
        """The teacher's answer; one that streams has no candidate yet. It is asked once."""
        if self._chat.controls.dry_run:
            raise _DryRun
        if self._told is None:
            try:
                self._told = await self._ask_teacher()
            except Exception as error:
                self._told = error
        if isinstance(self._told, Exception):
            raise self._told
        return self._told

    async def _ask_teacher(self) -> Answer:
        self._budgets.reserve(self._limits)
        start_s = time.perf_counter()
        try:
            response = await self._teacher.ask(self._chat, self._conversation, self._chat.stream)
        except TeacherDown as down:
            if not down.billed:
                self._budgets.give_back(self._limits)
            raise
        except (RuntimeFailure, ContextLimitReached, TeacherRefused):
            self._budgets.give_back(self._limits)
            raise
        finally:
            self.waits.append(Wait("teacher", start_s, time.perf_counter()))
        if isinstance(response, Answer):
            self.taught = response
            return response
        self.reply = response
        return Answer((Candidate("(see the reply)"),), self._teacher.version)

    async def _timed(self, ask: Callable[[], Awaitable[T]], who: str) -> T:
        """Raises SlmDown, and ContextLimitReached."""
        start_s = time.perf_counter()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await ask()
        except TimeoutError:
            raise SlmDown(
                f"the {_CALLED[who]} did not answer within {self._deadline_s:g} s"
            ) from None
        except RuntimeFailure as error:
            raise SlmDown(f"the {_CALLED[who]} failed: {error}") from None
        except ContextLimitReached:
            raise
        except Exception as error:  # a boundary: whatever it is, the teacher can answer
            reason = " ".join(str(error).split())[:200]
            warn(f"the {_CALLED[who]} failed: {type(error).__name__}: {reason}")
            raise SlmDown(f"the {_CALLED[who]} failed; the gateway's log says more") from None
        finally:
            self.waits.append(Wait(who, start_s, time.perf_counter()))


async def take(
    step: ServedStep, router: Router, context: StepContext, fallback: bool, forced: bool
) -> StepOutcome:
    """The decision, and what stands in where a side cannot act. `fallback`: the SLM may act in
    the place of a teacher that does not answer. Raises ApiError, TeacherDown, TeacherRefused."""
    noting = Noting(router)
    outcome = await _taken(step, noting, context, fallback, forced)
    if outcome.decision.score == noting.score:
        return outcome
    decision = replace(outcome.decision, score=noting.score)
    return replace(outcome, decision=decision)


async def _taken(
    step: ServedStep, router: Router, context: StepContext, fallback: bool, forced: bool
) -> StepOutcome:
    try:
        decision = await decide(router, context, step)
    except _DryRun:
        return await _slm_instead(step, context, "dry_run", would="teacher")
    except BudgetSpent:
        return await _slm_instead(step, context, "budget")
    except TeacherDown:
        if not fallback:
            raise
        return await _slm_instead(step, context, "teacher_unavailable")
    except (SlmDown, ContextLimitReached) as error:
        context_full = isinstance(error, ContextLimitReached)
        if forced:
            raise _refused(error) from None
        return await _teacher_instead(
            step, context, "context" if context_full else "slm_unavailable", error
        )
    except RuntimeFailure as error:  # only engines raise it as a teacher
        if not fallback:
            raise busy(f"the teacher does not answer: {error}", "teacher_unavailable") from None
        return await _slm_instead(step, context, "teacher_unavailable")
    if decision.chosen is None and decision.actor == "slm" and not forced:
        reason = "unparsable" if step.unparsable else "no_action"
        return await _teacher_instead(step, context, reason, None, decision)
    reason = "held" if decision.held else "router"
    return _outcome(step, decision, "forced" if forced else reason)


async def _slm_instead(
    step: ServedStep, context: StepContext, reason: str, would: str | None = None
) -> StepOutcome:
    """The SLM acts in the teacher's place."""
    try:
        decision = await decide(ALONE, context, step)
    except (SlmDown, ContextLimitReached) as error:
        raise busy(f"neither side can answer ({reason}; {error})", reason) from None
    if decision.chosen is None:
        raise busy(f"neither side can answer ({reason}; the SLM has no action)", reason)
    return _outcome(step, decision, reason, would)


async def _teacher_instead(
    step: ServedStep,
    context: StepContext,
    reason: str,
    error: Exception | None,
    slm_decision: StepDecision | None = None,
) -> StepOutcome:
    """The teacher acts in the SLM's place, within the budget."""
    try:
        decision = await decide(ASKED, context, step)
    except BudgetSpent as limit:
        raise busy(f"neither side can answer ({reason}; the budget of {limit})", reason) from None
    except _DryRun:
        raise busy(f"the SLM cannot answer ({reason})", reason) from None
    except ContextLimitReached as limit:
        raise _refused(limit) from None
    except RuntimeFailure as failure:
        raise busy(f"neither side can answer ({reason}; {failure})", reason) from None
    if slm_decision is not None:
        decision = replace(slm_decision, actor=decision.actor, chosen=decision.chosen)
    return _outcome(step, decision, reason)


def _refused(error: Exception) -> Exception:
    if isinstance(error, ContextLimitReached):
        return invalid(
            f"the conversation is too long: {error}", "messages", "context_length_exceeded"
        )
    return busy(str(error), "slm_unavailable")


def _outcome(
    step: ServedStep, decision: StepDecision, reason: str, would: str | None = None
) -> StepOutcome:
    if decision.actor == "slm":
        would = would or ("slm" if step._chat.controls.dry_run else None)
        return StepOutcome(decision, reason, would)
    if step.taught is not None and decision.chosen is None:
        raise busy("the teacher gave no answer", "no_action")
    return StepOutcome(decision, reason, None, step.reply, step.taught)
