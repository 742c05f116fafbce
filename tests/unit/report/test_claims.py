"""Words follow from the numbers, and every baseline is listed as fitted or unfitted."""

from dataclasses import replace

import numpy as np
import pytest

from r2v_dist.config.run import load_config
from r2v_dist.evaluation.comparison import Comparison, Comparisons, SeedArms
from r2v_dist.evaluation.operating_points import ChosenPoint
from r2v_dist.evaluation.results import Findings
from r2v_dist.evaluation.risk_quality import EpisodeQuality, RiskQuality, StepQuality
from r2v_dist.report.claims import (
    cvar_role,
    first_step_words,
    not_kept,
    p_text,
    seeds_words,
    standing,
    unplayed,
)
from r2v_dist.report.figures.palette import LABELS, is_fitted, listed
from r2v_dist.router.names import BASELINES, BY_NAME
from r2v_dist.stats.bootstrap import PairedDifference
from r2v_dist.stats.seed_difference import seed_difference
from tests.arms import arm
from tests.runs import ROOT

CONFIGS = ROOT / "configs"


def test_equal_seeds_leave_cvar_idle_and_harsh_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    alike_TZ = (rng.random((30, 10)) < 0.4).astype(np.float64)
    harsh_TZ = alike_TZ.copy()
    harsh_TZ[:, 0] = 1.0
    idle = seeds_words(seed_difference("slm_only", alike_TZ, 0.2, 0, 2_000))
    assert idle.startswith("seeds do not differ beyond noise: CVaR is idle (p = ")
    assert "noise floor" in idle
    differ = seeds_words(seed_difference("slm_only", harsh_TZ, 0.2, 0, 2_000))
    assert differ.startswith(
        "seeds differ beyond noise (p <= 0.0005, level 0.01; SLM only: CVaR of failure 0."
    )
    assert "idle" not in differ


def test_a_p_value_at_its_floor_is_only_bounded() -> None:
    assert p_text(0.0001, True) == "p <= 0.0001"
    assert p_text(0.31, False) == "p = 0.31"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "CVaR only filters thresholds here"),
        (["router.score=validated"], "validation chose risk, value or disagreement)."),
        (["router.score=policy"], "acts in the training of what routes"),
        (["router.mode=joint"], "acts in the training of what routes"),
        (["router=null"], "No router is trained"),
    ],
)
def test_what_cvar_does_depends_on_what_routes(overrides: list[str], said: str) -> None:
    assert said in cvar_role(load_config(CONFIGS / "textworld_demo.yaml", overrides))


def risk_at_first_step(brier: float, training_seed: int) -> RiskQuality:
    first = StepQuality(0, 10, 0.5, 0.5, brier, 0.25, 0.5)
    alike = EpisodeQuality(0.2, 0.25, 0.1, 0.5)
    measures = [0.2] * 10
    return RiskQuality("r2v", training_seed, *measures, 0.6, 20, 10, 0.5, 0.5, 0.6, alike, (first,))


@pytest.mark.parametrize(
    ("briers", "said"),
    [
        ([0.2], "At the first step the risk of r2v is better than the base rate."),
        ([0.3], "At the first step the risk of r2v is no better than the base rate."),
        ([0.3, 0.2, 0.25], "no better than the base rate in 2 of 3 training seeds."),
        ([], ""),
    ],
)
def test_the_first_step_is_compared_with_the_base_rate(briers: list[float], said: str) -> None:
    risk = [risk_at_first_step(brier, s) for s, brier in enumerate(briers)]
    found = Findings((), [], [], (), risk, [], [], {}, None, [], None)
    assert first_step_words(found, "r2v").endswith(said)
    assert bool(first_step_words(found, "r2v")) == bool(briers)


def compared(**gaps: tuple[float, float]) -> Findings:
    """r2v against other routers, each with the interval of its difference at r2v's calls; by area
    r2v is ahead of all of them.
    """
    ahead = PairedDifference(0.1, 0.05, 0.2)
    others = [
        Comparison(
            *(name, BY_NAME[name].family, 0.8, ahead, 0.9),
            PairedDifference((low + high) / 2, low, high),
            *(5, 0.5, False),
        )
        for name, (low, high) in gaps.items()
    ]
    found = Comparisons(0.9, 1.0, 0.9, None, None, {}, 1, tuple(others))
    answers = {0: {"logistic": 0, "logistic_disagreement": 7}}
    return Findings((), [], [], (), [], [], [], {}, found, [], None, answers)


def test_a_baseline_that_is_level_or_ahead_is_named() -> None:
    found = compared(
        entropy=(-0.2, 0.1),
        logistic=(-0.01, 0.02),
        logistic_disagreement=(-0.2, -0.1),
        query_level=(0.1, 0.2),
        r2v_risk=(-0.2, 0.1),
    )
    assert standing(found) == [
        "AHEAD OF r2v: logistic on disagreement, at its calls (7 teacher answers in training)",
        "LEVEL WITH r2v: logistic regression, at its calls (0 teacher answers in training); "
        "first-token entropy, at its calls (unfitted)",
    ]
    assert standing(compared(entropy=(0.2, 0.3), logistic=(0.01, 0.02))) == []
    touching = standing(compared(logistic=(0.0, 0.02)))
    assert touching == [
        "LEVEL WITH r2v: logistic regression, at its calls (0 teacher answers in training)"
    ]


def test_a_router_without_a_threshold_is_named() -> None:
    rng = np.random.default_rng(0)
    config = load_config(CONFIGS / "textworld_demo.yaml", ["evaluate.routers=[entropy, r2v]"])
    arms = (arm("teacher_only", None, 1.0, 1.0, rng), arm("r2v", 0.5, 0.9, 0.3, rng))
    found = replace(compared(), seeds=(SeedArms(0, arms, {}, "best_of_k"),))
    assert [said.split(";")[0] for said in unplayed(config, found)] == [
        "NOT PLAYED: first-token entropy"
    ]
    both = (*arms, arm("entropy", 0.5, 0.9, 0.3, rng))
    assert unplayed(config, replace(found, seeds=(SeedArms(0, both, {}, "best_of_k"),))) == []


def test_the_best_and_the_closest_are_found_apart_by_fitting() -> None:
    found = compared(entropy=(0.1, 0.2), random=(0.2, 0.3), logistic=(0.0, 0.1)).comparisons
    assert found is not None
    best = {fitted: found.best(fitted) for fitted in (True, False)}
    assert [one and one.other for one in best.values()] == ["logistic", "entropy"]
    assert found.best_at_cost == "entropy"
    closest = found.closest(True)
    assert closest is not None
    assert closest.other == "logistic"
    without = compared(entropy=(0.1, 0.2)).comparisons
    assert without is not None
    assert without.best(True) is without.closest(True) is None


def test_every_baseline_says_whether_it_is_fitted() -> None:
    unfitted = {name for name in BASELINES if is_fitted(name) is False}
    known = "random random_episode first_n after_error agreement entropy heuristic verifier"
    assert unfitted == {*known.split(), "perplexity", "stuck_latch"}
    for name in BASELINES:
        assert listed(name) == f"{LABELS[name]}, {'unfitted' if name in unfitted else 'fitted'}"
    assert listed("r2v") == "r2v"
    assert (is_fitted("r2v"), is_fitted("oracle"), is_fitted("slm_only")) == (True, None, None)


def test_a_tolerance_that_no_threshold_keeps_is_told() -> None:
    config = load_config(CONFIGS / "textworld_demo.yaml", ["evaluate.epsilon=0.07"])
    kept = ChosenPoint("selected", 0, 0.5, None, 1.0, 0.3, None, "", kept=True)
    never_asked = replace(kept, kind="bayes", kept=None)
    assert not_kept(config, replace(compared(), points=[kept, never_asked])) == []
    (said,) = not_kept(config, replace(compared(), points=[replace(kept, kept=False)]))
    assert said.startswith("NOT KEPT: no threshold of r2v's has CVaR of failure within 0.07 of ")
