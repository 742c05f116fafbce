"""Every router's score by hand, and what latch, cap and missing parts do to a decision."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from r2v_dist.errors import UsageError
from r2v_dist.language_model import Answer, Candidate, TopTokens
from r2v_dist.router.baselines import stuck_steps
from r2v_dist.router.calibration import Calibrator
from r2v_dist.router.features import FEATURE_NAMES, features
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import RouterModel
from r2v_dist.router.names import BY_NAME, DRAWN
from r2v_dist.router.query_features import (
    QUERY_FEATURE_NAMES,
    QUERY_FEATURE_VERSION,
    query_features,
)
from r2v_dist.router.registry import LEARNED, RouterModels, build_router
from r2v_dist.router.scaler import Scaler
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.router.step_context import StepContext
from r2v_dist.verifier.base import select_candidate

SITUATION = StepContext(
    true_risk=0.25,
    t=1,
    draw=("task", 3, 1),
    goal="find the key",
    observations=("a room", "a door"),
    actions=("go east",),
    max_steps=10,
    verifier_scores=(0.3, 0.9),
    chosen_index=1,
)
PROPOSAL = Answer(
    (Candidate("go west", (1,), (-2.0,)), Candidate("go east", (2, 3), (-0.5, -1.5))),
    "p",
    50,
    TopTokens.of([(1, math.log(0.5)), (2, math.log(0.5))]),
)


def linear(names: tuple[str, ...], version: str, seed: int = 0) -> RouterModel:
    rng = np.random.default_rng(seed)
    head = Mlp(((rng.normal(size=(1, len(names))), rng.normal(size=1)),))
    return RouterModel(
        "r-1",
        "joint",
        Scaler.unlimited(np.zeros(len(names)), np.ones(len(names))),
        {"rho": head},
        {"rho": Calibrator()},
        names,
        version,
    )


MODELS = RouterModels(
    {("query_level", 0): linear(QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION)}
    | {(name, 0): linear(FEATURE_NAMES, "1", i) for i, name in enumerate(LEARNED)}
)


def score(name: str, context: StepContext = SITUATION, proposal: Answer = PROPOSAL) -> float:
    found = build_router(name, 0.5, MODELS).decide(context, proposal).score
    assert found is not None
    return found


def test_scores_by_hand() -> None:
    assert score("entropy") == pytest.approx(math.log(2))
    assert score("verifier") == pytest.approx(0.1)
    # 1 - exp(-log 2) exceeds the verifier's doubt; with a verifier that is sure of nothing, doubt
    # decides.
    assert score("heuristic") == pytest.approx(0.5)
    assert score("heuristic", replace(SITUATION, verifier_scores=(0.2, 0.1))) == pytest.approx(0.8)
    assert score("heuristic", replace(SITUATION, verifier_scores=())) == pytest.approx(0.5)
    # The verifier's favourite would be executed, so its perplexity counts; the first candidate's
    # without a verifier.
    assert score("perplexity") == pytest.approx(math.exp(1.0))
    assert score("perplexity", replace(SITUATION, chosen_index=0)) == pytest.approx(math.exp(2.0))


def test_the_action_of_most_verifier_score_is_executed() -> None:
    assert select_candidate(["a", "b", "b", "c"], (0.5, 0.3, 0.3, 0.4)) == 1
    assert select_candidate(["a", "b", "b", "c"], (0.7, 0.3, 0.3, 0.4)) == 0
    assert select_candidate(["a", "b"], (0.4, 0.4)) == 0
    assert select_candidate(["a", "b"], ()) == 0
    # Equal in single precision: a choice made again from stored scores is the same choice.
    assert select_candidate(["a", "b"], (0.3, 0.1 + 0.2)) == 0


@pytest.mark.parametrize(
    "name", sorted(set(BY_NAME) - {"slm_only", "best_of_k", "teacher_only", *DRAWN})
)
def test_every_thresholded_router_escalates_iff_its_score_reaches_the_threshold(name: str) -> None:
    at = score(name)
    assert build_router(name, at, MODELS).decide(SITUATION, PROPOSAL).escalate
    assert not build_router(name, at + 1e-9, MODELS).decide(SITUATION, PROPOSAL).escalate


def test_constants_and_who_needs_a_proposal() -> None:
    assert [
        build_router(name, None).decide(SITUATION, None).escalate
        for name in ("slm_only", "best_of_k", "teacher_only")
    ] == [0, 0, 1]
    before = {
        name for name in BY_NAME if not build_router(name, 0.5, MODELS).needs_proposal(SITUATION)
    }
    assert before == {
        "slm_only",
        "best_of_k",
        "teacher_only",
        "random",
        "random_episode",
        "first_n",
        "after_error",
        "query_level",
        "stuck_latch",
    }


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_router_scores_the_features_of_the_step(name: str) -> None:
    expected = MODELS.of(name, 0).predict(features(StepBatch.of_step(PROPOSAL, SITUATION))).score[0]
    assert score(name) == expected


def test_a_learned_router_ignores_what_names_the_random_stream() -> None:
    assert score("r2v", replace(SITUATION, draw=("other", 9, 1))) == score("r2v")


def test_the_query_router_knows_only_goal_and_first_observation() -> None:
    later = replace(
        SITUATION,
        t=2,
        observations=("a room", "elsewhere", "Error"),
        actions=("x", "y"),
        escalations=1,
    )
    assert score("query_level", later) == score("query_level")
    assert score("query_level", replace(SITUATION, observations=("a cellar", "a door"))) != score(
        "query_level"
    )
    row = query_features(["Find the key"], ["a key"])[0]
    assert row[:2].tolist() == [3, 2]
    assert np.expm1(row[2:]).sum() == pytest.approx(5.0)


def stuck(actions: str, observations: str) -> float:
    return stuck_steps(
        replace(
            SITUATION,
            actions=tuple(actions),
            observations=tuple({"E": "Error: no"}.get(o, o) for o in observations),
        )
    )


def test_stuck_steps_are_counted_from_the_end() -> None:
    assert stuck("", "a") == 0
    assert stuck("xyz", "abcd") == 0
    assert stuck("xxx", "abcd") == 2
    assert stuck("xyz", "abbb") == 2
    assert stuck("xyz", "aEEc") == 0
    assert stuck("xyz", "acEE") == 2


def proposed(actions: str) -> Answer:
    return Answer(tuple(Candidate(action) for action in actions), "p")


def test_the_k_disagree_by_what_the_commonest_action_lacks() -> None:
    assert score("agreement", proposal=proposed("aaaaa")) == 0.0
    assert score("agreement", proposal=proposed("abaca")) == pytest.approx(0.4)
    assert score("agreement", proposal=proposed("abcde")) == pytest.approx(0.8)
    assert score("agreement", proposal=proposed("a")) == 0.0
    assert score("agreement", proposal=proposed("")) == 1.0


@pytest.mark.parametrize("n", range(1, 6))
def test_the_teacher_has_the_first_n_steps(n: int) -> None:
    router = build_router("first_n", -float(n))
    taken = [router.decide(replace(SITUATION, t=t), None).escalate for t in range(8)]
    assert taken == [t < n for t in range(8)]


@pytest.mark.parametrize("n", range(1, 6))
@pytest.mark.parametrize("seen", ["", "E", "aEaaaE", "aaaa", "EEaaaaa"])
def test_the_teacher_has_the_n_steps_after_an_error(n: int, seen: str) -> None:
    router = build_router("after_error", 1.0 / n)
    told = ["Error: no" if one == "E" else one for one in f"a{seen}"]
    for t in range(len(told)):
        escalated = router.decide(replace(SITUATION, observations=tuple(told[: t + 1])), None)
        assert escalated.escalate == ("Error: no" in told[max(0, t + 1 - n) : t + 1])


def drawn(name: str, rate: float) -> np.ndarray:
    """Decisions [episodes, steps]."""
    router = build_router(name, rate)
    return np.array(
        [
            [router.decide(replace(SITUATION, draw=(task, z, t)), None).escalate for t in range(6)]
            for task in ("a", "b", "c", "d")
            for z in range(50)
        ]
    )


@pytest.mark.parametrize("name", DRAWN)
def test_draws_nest_over_rates_and_keep_them(name: str) -> None:
    rates = (0.1, 0.3, 0.6, 0.9)
    levels = [drawn(name, rate) for rate in rates]
    for rate, level in zip(rates, levels, strict=True):
        assert level.mean() == pytest.approx(rate, abs=0.11)
    for less, more in itertools.pairwise(levels):
        assert not (less & ~more).any()
    assert not drawn(name, 0.0).any()
    assert drawn(name, 1.0).all()


def test_a_random_episode_belongs_to_one_actor_and_a_random_step_does_not() -> None:
    whole = drawn("random_episode", 0.5)
    assert (whole == whole[:, :1]).all()
    assert (drawn("random", 0.5) != drawn("random", 0.5)[:, :1]).any()


def test_the_stuck_latch_stays_with_the_teacher() -> None:
    router = build_router("stuck_latch", 2.0)
    moving = replace(SITUATION, actions=("a", "b"), observations=("1", "2", "3"))
    idle = replace(moving, actions=("a", "a"), observations=("1", "1", "1"))
    assert not router.decide(moving, None).escalate
    assert router.decide(idle, None).escalate
    assert router.decide(replace(moving, escalations=1), None).escalate


def test_a_latched_router_hands_over_for_good_and_asks_no_more() -> None:
    router = build_router("entropy", 0.1, RouterModels(latched=frozenset({"entropy"})))
    sure = replace(PROPOSAL, first_top=TopTokens.of([(1, 0.0)]))
    assert router.needs_proposal(SITUATION)
    assert not router.decide(SITUATION, sure).escalate
    handed_over = replace(SITUATION, escalations=1)
    assert not router.needs_proposal(handed_over)
    assert router.decide(handed_over, None).escalate


def test_a_budget_is_never_exceeded() -> None:
    router = build_router(
        "entropy", 0.0, RouterModels(latched=frozenset({"entropy"}), budgets={"entropy": 2})
    )
    chosen = [
        router.decide(replace(SITUATION, escalations=used), PROPOSAL).escalate for used in range(4)
    ]
    assert chosen == [True, True, False, False]


def test_what_is_missing_is_named() -> None:
    for name, threshold, message in (
        ("nonsense", 0.5, "router nonsense: no such router; there are slm_only"),
        ("entropy", None, "router entropy: needs a threshold"),
        ("r2v", 0.5, "router r2v: no model of training seed 0"),
    ):
        with pytest.raises(UsageError, match=message):
            build_router(name, threshold)
    with pytest.raises(UsageError, match="no verifier"):
        score("verifier", replace(SITUATION, verifier_scores=()))
    with pytest.raises(UsageError, match="no log-probabilities"):
        score("perplexity", proposal=Answer((Candidate("x"), Candidate("y")), "api"))


@pytest.mark.parametrize("name", BY_NAME)
def test_every_router_of_the_table_is_known_to_the_registry(name: str) -> None:
    if "router" not in BY_NAME[name].needs:
        assert build_router(name, 0.5) is not None
        return
    with pytest.raises(UsageError, match="no model of training seed 0"):
        build_router(name, 0.5)
