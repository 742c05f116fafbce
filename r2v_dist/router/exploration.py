"""Thresholds drawn by chance, once a conversation (docs/method.md, section 12).

Invariant: the draw is a pure function of a seed and the conversation's name; and the product of the
propensities of a conversation's steps is the probability that a threshold was drawn which decides
as was done at every one of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from r2v_dist.language_model import Answer
from r2v_dist.router.policies import Decision
from r2v_dist.router.step_context import StepContext
from r2v_dist.router.switching import Held, Hysteresis
from r2v_dist.seeding import rng_for


@dataclass(frozen=True)
class Exploration:
    """With probability `rate` a conversation plays one of `thresholds`, each as probable as the
    others, in the place of its operating point's."""

    rate: float
    thresholds: tuple[float, ...]
    seed: int = 0

    def drawn(self, conversation: str) -> float | None:
        """The threshold that this conversation explores; None where it explores none."""
        rng = rng_for("explore", self.seed, conversation)
        return rng.choice(self.thresholds) if rng.random() < self.rate else None


@dataclass(frozen=True)
class Design:
    """The thresholds that a conversation can be given, ascending, and the probability of each."""

    thresholds: tuple[float, ...]
    probabilities: tuple[float, ...]

    @classmethod
    def of(cls, chances: Iterable[tuple[float, float]]) -> "Design":
        """From pairs of threshold and probability; equal thresholds are one, and what has no chance
        is left out."""
        total: dict[float, float] = {}
        for threshold, probability in chances:
            total[threshold] = total.get(threshold, 0.0) + probability
        likely = sorted(threshold for threshold in total if total[threshold] > 0)
        return cls(tuple(likely), tuple(total[threshold] for threshold in likely))

    def explored(self, exploration: Exploration) -> "Design":
        """This design where a share of the conversations explores."""
        unexplored = 1.0 - exploration.rate
        probability = exploration.rate / len(exploration.thresholds)
        pairs = [
            (t, unexplored * p) for t, p in zip(self.thresholds, self.probabilities, strict=True)
        ]
        return Design.of(
            [*pairs, *((threshold, probability) for threshold in exploration.thresholds)]
        )

    def covers(self, threshold: float) -> bool:
        """Whether a conversation can be given this threshold."""
        return threshold in self.thresholds

    def chance_of(
        self, scores: Sequence[float], actors: Sequence[str], hysteresis: Hysteresis | None = None
    ) -> float:
        """The probability that a threshold is drawn which decides at every step as was done."""
        return sum(
            probability
            for threshold, probability in zip(self.thresholds, self.probabilities, strict=True)
            if agrees(threshold, scores, actors, hysteresis)
        )

    def propensity(
        self,
        scores: Sequence[float | None],
        actors: Sequence[str],
        hysteresis: Hysteresis | None = None,
    ) -> float | None:
        """The probability that whoever acted at the last step would, given the steps before it.
        None where a score is missing, or where no threshold decides as was done."""
        present_scores = [score for score in scores if score is not None]
        if len(present_scores) < len(actors):
            return None
        if len(self.thresholds) == 1:  # nothing was left to chance, and nothing has to be replayed
            return 1.0
        pairs = [
            (threshold, probability)
            for threshold, probability in zip(self.thresholds, self.probabilities, strict=True)
            if agrees(threshold, present_scores[:-1], actors[:-1], hysteresis)
        ]
        escalated = actors[-1] == "teacher"
        probabilities = [
            probability
            for threshold, probability in pairs
            if _decided(threshold, present_scores, actors[:-1], hysteresis) == escalated
        ]
        if not probabilities:
            return None
        return sum(probabilities) / sum(probability for _, probability in pairs)


def agrees(
    threshold: float,
    scores: Sequence[float],
    actors: Sequence[str],
    hysteresis: Hysteresis | None = None,
) -> bool:
    """Whether a threshold decides at every step as was done there, after the steps before it."""
    if hysteresis is None:
        return all(
            (score >= threshold) == (actor == "teacher")
            for score, actor in zip(scores, actors, strict=True)
        )
    return all(
        _decided(threshold, scores[: t + 1], actors[:t], hysteresis) == (actor == "teacher")
        for t, actor in enumerate(actors)
    )


@dataclass(frozen=True)
class _Scored:
    """A router whose score of the step is known."""

    threshold: float
    score: float

    def needs_proposal(self, context: StepContext) -> bool:
        return False

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        return Decision(self.score >= self.threshold, self.score)


def _decided(
    threshold: float,
    scores: Sequence[float],
    actors: Sequence[str],
    hysteresis: Hysteresis | None,
) -> bool:
    """Whether the teacher acts after these actors, with these scores up to the step."""
    if hysteresis is None:
        return scores[-1] >= threshold
    context = StepContext(len(actors), (), actors=tuple(actors), scores=tuple(scores[:-1]))
    router = Held(_Scored(threshold, scores[-1]), hysteresis, threshold)
    return router.decide(context, None).escalate
