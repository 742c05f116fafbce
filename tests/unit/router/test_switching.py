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


def test_a_registry_holds_the_routers_it_is_told_to() -> None:
    models = RouterModels(hysteresis={"first_n": Hysteresis(releases=2)})
    router = build_router("first_n", 1.0, models)
    assert isinstance(router, Held)
    assert router.threshold == 1.0
