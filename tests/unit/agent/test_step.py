"""The decision of one step, with no environment, tree, unit or arm."""

import asyncio
from dataclasses import dataclass, field

import pytest

from r2v_dist.agent.step import StepDecision, decide
from r2v_dist.language_model import Answer, Candidate, TopTokens
from r2v_dist.router.policies import ProposalThreshold
from r2v_dist.router.registry import build_router
from r2v_dist.router.step_context import StepContext

HERE = StepContext(
    t=0,
    draw=("task", 0, 0),
    goal="open the door",
    observations=("a door",),
    actions=(),
    escalations=0,
    max_steps=10,
)
UNSURE = TopTokens.of([(0, -0.69), (1, -0.69)])


@dataclass
class Fakes:
    """Models that note who was asked."""

    scores: tuple[float, ...] = (0.2, 0.9)
    candidates: tuple[Candidate, ...] = (Candidate("push"), Candidate("open"))
    asked: list[str] = field(default_factory=list)

    async def propose(self) -> Answer:
        self.asked.append("slm")
        return Answer(self.candidates, "slm-1", first_top=UNSURE)

    async def verify(self, proposal: Answer) -> tuple[float, ...]:
        self.asked.append("verifier")
        return self.scores

    async def teach(self) -> Answer:
        self.asked.append("teacher")
        return Answer((Candidate("unlock"),), "teacher-1")


def decided(router: str, threshold: float | None, models: Fakes) -> StepDecision:
    return asyncio.run(decide(build_router(router, threshold), HERE, models))


@pytest.mark.parametrize(
    ("router", "threshold", "asked", "actor", "action"),
    [
        ("teacher_only", None, ["teacher"], "teacher", "unlock"),
        ("best_of_k", None, ["slm", "verifier"], "slm", "open"),
        ("random", 0.0, ["slm", "verifier"], "slm", "open"),
        ("random", 1.0, ["teacher"], "teacher", "unlock"),
        ("entropy", 0.5, ["slm", "verifier", "teacher"], "teacher", "unlock"),
        ("entropy", 0.8, ["slm", "verifier"], "slm", "open"),
        ("verifier", 0.05, ["slm", "verifier", "teacher"], "teacher", "unlock"),
    ],
)
def test_nobody_is_asked_in_vain(
    router: str, threshold: float | None, asked: list[str], actor: str, action: str
) -> None:
    models = Fakes()
    decision = decided(router, threshold, models)
    assert models.asked == asked
    assert decision.actor == actor
    assert decision.chosen is not None
    assert decision.chosen.text == action


def test_a_teacher_that_acts_leaves_the_proposal_on_record() -> None:
    decision = decided("entropy", 0.5, Fakes())
    assert decision.proposal is not None
    assert decision.verifier_scores == (0.2, 0.9)
    assert decision.chosen_index == 1
    assert decision.chosen == Candidate("unlock")
    assert decision.score == pytest.approx(0.693, abs=0.01)


def test_without_a_verifier_the_first_candidate_acts() -> None:
    decision = decided("best_of_k", None, Fakes(scores=()))
    assert decision.chosen == Candidate("push")
    assert decision.chosen_index == 0


def test_a_router_sees_which_candidate_would_act() -> None:
    seen = []

    def watched(context: StepContext, proposal: Answer) -> float:
        seen.append(context.chosen_index)
        return 0.0

    asyncio.run(decide(ProposalThreshold(1.0, watched), HERE, Fakes()))
    assert seen == [1]


def test_an_slm_without_candidates_offers_no_action() -> None:
    decision = decided("best_of_k", None, Fakes(candidates=(), scores=()))
    assert decision.actor == "slm"
    assert decision.chosen is None
    assert decision.chosen_index is None
