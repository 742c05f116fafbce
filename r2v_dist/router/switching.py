"""How often who acts may change. Invariant: whether a step is held is a function of the path alone
(actors and scores so far), so that an offline episode and a gateway hold the same steps.
"""

from dataclasses import dataclass
from itertools import pairwise, takewhile

from r2v_dist.language_model import Answer
from r2v_dist.router.policies import Decision, Router
from r2v_dist.router.step_context import StepContext


@dataclass(frozen=True)
class Hysteresis:
    """`minimum_hold`: steps that an actor goes on after a switch, the first included. `releases`:
    decisions in a row for the SLM before the teacher gives way. `most_switches`: of an episode;
    None for no limit."""

    minimum_hold: int = 1
    releases: int = 1
    most_switches: int | None = None


@dataclass(frozen=True)
class Held:
    """Keeps to the last actor where a switch comes too early. A router that needs no proposal is
    asked as before; one whose step is held with the teacher has looked at the SLM's proposal, so
    its scores go on."""

    router: Router
    hysteresis: Hysteresis
    threshold: float

    def needs_proposal(self, context: StepContext) -> bool:
        return self.router.needs_proposal(context)

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        wanted = self.router.decide(context, proposal)
        if not context.actors or not self._holds(context, wanted.escalate):
            return wanted
        return Decision(not wanted.escalate, wanted.score, held=True)

    def _holds(self, context: StepContext, escalate: bool) -> bool:
        actors = context.actors
        last = actors[-1]
        if escalate == (last == "teacher"):
            return False
        switches = sum(before != after for before, after in pairwise(actors))
        most = self.hysteresis.most_switches
        if most is not None and switches >= most:
            return True
        here = len(list(takewhile(lambda actor: actor == last, reversed(actors))))
        if switches and here < self.hysteresis.minimum_hold:
            return True
        return not escalate and self._low(context) + 1 < self.hysteresis.releases

    def _low(self, context: StepContext) -> int:
        """Earlier decisions in a row, up to the last, that were for the SLM."""
        scores = reversed(context.scores)
        return len(list(takewhile(lambda s: s is not None and s < self.threshold, scores)))
