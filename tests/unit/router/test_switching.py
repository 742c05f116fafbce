"""Case 47: with hysteresis who acts changes as seldom as was said, as a function of the path."""

import pytest

from r2v_dist.language_model import Answer
from r2v_dist.router.policies import Decision
from r2v_dist.router.registry import RouterModels, build_router
from r2v_dist.router.step_context import StepContext
from r2v_dist.router.switching import Held, Hysteresis


class Scripted:
    """Escalates at 0.5, by a sequence of scores."""

    def __init__(self, scores: list[float]) -> None:
        self._scores = scores

    def needs_proposal(self, context: StepContext) -> bool:
        return False

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        score = self._scores[context.t]
        return Decision(score >= 0.5, score)


def played(scores: list[float], hysteresis: Hysteresis) -> tuple[str, str]:
    """Who acted, a letter a step, and which steps were held."""
    router = Held(Scripted(scores), hysteresis, 0.5)
    actors: list[str] = []
    held = ""
    for t in range(len(scores)):
        context = StepContext(t, (), actors=tuple(actors), scores=tuple(scores[:t]))
        decision = router.decide(context, None)
        assert decision.score == scores[t]
        actors.append("teacher" if decision.escalate else "slm")
        held += "x" if decision.held else "."
    return "".join(actor[0] for actor in actors), held


BOUNCING = [0.6, 0.4] * 6


@pytest.mark.parametrize(
    ("hysteresis", "actors"),
    [
        (Hysteresis(), "tstststststs"),
        (Hysteresis(minimum_hold=3), "tssstttssstt"),
        (Hysteresis(releases=2), "t" * 12),
        (Hysteresis(most_switches=1), "t" + "s" * 11),
        (Hysteresis(most_switches=0), "t" * 12),
    ],
)
def test_a_score_that_bounces(hysteresis: Hysteresis, actors: str) -> None:
    assert played(BOUNCING, hysteresis)[0] == actors
    assert ("x" in played(BOUNCING, hysteresis)[1]) == (hysteresis != Hysteresis())


def test_the_teacher_gives_way_after_decisions_in_a_row() -> None:
    scores = [0.6, 0.4, 0.4, 0.6, 0.4, 0.4, 0.4, 0.4]
    assert played(scores, Hysteresis(releases=3)) == ("ttttttss", ".xx.xx..")


DEAR = Hysteresis(cold_token_price=2.5e-5, cache_s=300.0)
"""40 000 cold tokens cost as much as a teacher call."""


def asked(
    score: float, actors: str, prompts: tuple[int, ...], now: int, ages: tuple[float, ...] = ()
) -> Decision:
    """A decision at a threshold of .02, after steps of `s`lm and `t`eacher."""
    names = {"s": "slm", "t": "teacher"}
    router = Held(_At(0.02, score), DEAR, 0.02)
    context = StepContext(
        len(actors),
        (),
        actors=tuple(names[letter] for letter in actors),
        scores=(0.0,) * len(actors),
        prompt_tokens=prompts,
        ages=ages,
    )
    return router.decide(context, Answer((), "slm", now))


class _At:
    """Escalates at a threshold, with one score."""

    def __init__(self, threshold: float, score: float) -> None:
        self._threshold = threshold
        self._score = score

    def needs_proposal(self, context: StepContext) -> bool:
        return True

    def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
        return Decision(self._score >= self._threshold, self._score)


@pytest.mark.parametrize(
    ("actors", "prompts", "now", "ages", "cold"),
    [
        ("s", (38_000,), 40_000, (9.0,), 40_000),  # the teacher has read nothing
        ("ts", (39_000, 39_500), 40_000, (30.0, 9.0), 1_000),  # what came after its step
        ("ts", (40_000, 40_000), 40_000, (30.0, 9.0), 0),
        ("ts", (39_000, 39_500), 40_000, (301.0, 9.0), 40_000),  # its cache has forgotten
        ("tts", (1_000, 20_000, 30_000), 40_000, (400.0, 299.0, 9.0), 20_000),
        ("ts", (39_000, 39_500), 40_000, (), 1_000),  # an episode without a clock
    ],
)
def test_case_48_a_switch_costs_the_tokens_that_are_cold_on_the_teacher(
    actors: str, prompts: tuple[int, ...], now: int, ages: tuple[float, ...], cold: int
) -> None:
    context = StepContext(
        len(actors),
        (),
        actors=tuple({"s": "slm", "t": "teacher"}[letter] for letter in actors),
        prompt_tokens=prompts,
        ages=ages,
    )
    assert DEAR.cold_tokens(context, now) == cold
    bar = 0.02 * (1 + 2.5e-5 * cold)
    assert DEAR.bar(0.02, context, now) == pytest.approx(bar, abs=1e-9)
    below, above = (asked(score, actors, prompts, now, ages) for score in (bar - 1e-9, bar + 1e-9))
    assert (below.escalate, below.held) == (False, cold > 0)
    assert (above.escalate, above.held) == (True, False)


def test_case_48_staying_and_the_way_back_cost_nothing() -> None:
    stays = asked(0.0201, "t", (30_000,), 40_000)
    assert (stays.escalate, stays.held) == (True, False)
    back = asked(0.0199, "t", (30_000,), 40_000)
    assert (back.escalate, back.held) == (False, False)


def test_a_registry_holds_the_routers_it_is_told_to() -> None:
    models = RouterModels(hysteresis={"first_n": Hysteresis(releases=2)})
    router = build_router("first_n", 1.0, models)
    assert isinstance(router, Held)
    assert router.threshold == 1.0
