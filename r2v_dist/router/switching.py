"""How often who acts may change. Invariant: whether a step is held is a function of the path alone
(actors, scores and prompt lengths so far), so that an offline episode and a gateway hold the same
steps. `cache_s` alone needs a clock, which an offline episode has not: there caches never expire.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, takewhile

from r2v_dist.language_model import Answer
from r2v_dist.router.policies import Decision, Router
from r2v_dist.router.step_context import StepContext


@dataclass(frozen=True)
class Hysteresis:
    """`minimum_hold`: steps that an actor goes on after a switch, the first included. `releases`:
    decisions in a row for the SLM before the teacher gives way. `most_switches`: of an episode;
    None for no limit.

    `cold_token_price`: in teacher calls, of a token that the teacher reads cold when it takes over.
    A threshold is what one teacher call must bring; a switch costs 1 + price * cold tokens calls,
    so must bring so many times the threshold. `cache_s`: seconds after which the teacher's prefix
    cache has forgotten; None for never. The SLM looks at every step, so its cache is warm and the
    way back is free.
    """

    minimum_hold: int = 1
    releases: int = 1
    most_switches: int | None = None
    cold_token_price: float = 0.0
    cache_s: float | None = None

    def cold_tokens(self, context: StepContext, prompt_tokens: int) -> int:
        """Tokens of a prompt that the teacher has not read: all that came after its last step, or
        all where it has read none, or too long ago."""
        warm = 0
        for actor, tokens, age_s in _earlier(context):
            if actor == "teacher" and (self.cache_s is None or age_s <= self.cache_s):
                warm = tokens
        return max(0, prompt_tokens - warm)

    def bar(self, threshold: float, context: StepContext, prompt_tokens: int) -> float:
        """The score from which the teacher may take over."""
        price = self.cold_token_price * self.cold_tokens(context, prompt_tokens)
        return threshold + abs(threshold) * price


def _earlier(context: StepContext) -> Iterator[tuple[str, int, float]]:
    """Who acted, with how long a prompt, and how many seconds ago, of every earlier step."""
    ages = context.ages or (0.0,) * len(context.actors)
    tokens = context.prompt_tokens or (0,) * len(context.actors)
    return zip(context.actors, tokens, ages, strict=True)


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
        decision = self.router.decide(context, proposal)
        if not context.actors:
            return decision
        prompt_tokens = proposal.prompt_tokens if proposal else 0
        if not self._holds(context, decision.escalate) and not self._too_dear(
            context, decision, prompt_tokens
        ):
            return decision
        return Decision(not decision.escalate, decision.score, held=True)

    def _holds(self, context: StepContext, escalate: bool) -> bool:
        actors = context.actors
        last = actors[-1]
        if escalate == (last == "teacher"):
            return False
        switches = sum(before != after for before, after in pairwise(actors))
        most_switches = self.hysteresis.most_switches
        if most_switches is not None and switches >= most_switches:
            return True
        steps_held = len(list(takewhile(lambda actor: actor == last, reversed(actors))))
        if switches and steps_held < self.hysteresis.minimum_hold:
            return True
        return not escalate and self._low(context) + 1 < self.hysteresis.releases

    def _too_dear(self, context: StepContext, decision: Decision, prompt_tokens: int) -> bool:
        """Whether the teacher would take over, and brings less than its reading costs."""
        if not decision.escalate or context.actors[-1] == "teacher" or decision.score is None:
            return False
        return decision.score < self.hysteresis.bar(self.threshold, context, prompt_tokens)

    def _low(self, context: StepContext) -> int:
        """Earlier decisions in a row, up to the last, that were for the SLM."""
        scores = reversed(context.scores)
        return len(list(takewhile(lambda s: s is not None and s < self.threshold, scores)))
