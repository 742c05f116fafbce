"""The one rule by which validation chooses a threshold."""

import numpy as np
import pytest

from r2v_dist.config.router import RouterConfig
from r2v_dist.config.run import load_config
from r2v_dist.evaluation.outcomes import ArmOutcomes, router_rows
from r2v_dist.evaluation.threshold_selection import Tolerance, selected_thresholds
from r2v_dist.stats.cvar import cvar_failure
from tests.runs import ROOT

TASKS, SEEDS = 20, 10
ALPHA = 0.2
DEMO = ROOT / "configs" / "textworld_demo.yaml"


def arm(name: str, threshold: float | None, success_TZ: np.ndarray) -> ArmOutcomes:
    """A lower threshold makes more calls."""
    calls_TZ, tasks = (
        np.full(success_TZ.shape, 10 * (1 - (threshold or 0.0))),
        tuple(map(str, range(len(success_TZ)))),
    )
    steps_TZ = np.full(success_TZ.shape, 10.0)
    return ArmOutcomes(
        name, threshold, 0, "validation", tasks, tuple(range(SEEDS)), success_TZ, calls_TZ, steps_TZ
    )


def chosen(
    epsilon: float,
    failures: dict[float, int],
    name: str = "r2v",
    by_teacher: int = 0,
    margin: float = 0.5,
) -> dict[str, float]:
    """What is chosen of thresholds with so many failures under seed 0, and a teacher
    with its own.
    """

    def failing(name: str, threshold: float | None, failed: int) -> ArmOutcomes:
        success_TZ = np.ones((TASKS, SEEDS))
        success_TZ[:failed, 0] = 0.0
        return arm(name, threshold, success_TZ)

    arms = [
        failing("teacher_only", None, by_teacher),
        *(failing(name, *pair) for pair in failures.items()),
    ]
    return selected_thresholds(arms, Tolerance(epsilon, margin, ALPHA, 2000, 0))


def test_the_cheapest_that_holds() -> None:
    # The worst fifth is two seeds: two failures are a CVaR of 2 / 40.
    failures = {0.9: 8, 0.7: 4, 0.5: 2, 0.3: 2, 0.1: 0}
    assert chosen(0.06, failures) == {"r2v": 0.5}
    assert chosen(0.02, failures) == {"r2v": 0.1}


def test_a_teacher_that_fails_itself_is_the_floor() -> None:
    failures = {0.9: 8, 0.7: 6, 0.5: 5, 0.3: 4}
    assert chosen(0.06, failures, by_teacher=4) == {"r2v": 0.7}
    assert chosen(0.01, failures, by_teacher=4) == {"r2v": 0.3}


def test_a_larger_margin_is_dearer() -> None:
    # Of twenty tasks with two failures .04 of all draws have five, a CVaR of .125; with four
    # failures .63 have four at most, a CVaR of .1.
    failures = {0.9: 8, 0.7: 4, 0.5: 2, 0.1: 0}
    assert chosen(0.11, failures) == {"r2v": 0.7}
    assert chosen(0.11, failures, margin=0.9) == {"r2v": 0.5}
    assert chosen(0.11, failures, margin=0.999) == {"r2v": 0.1}


def test_where_none_holds_the_least_bad_one_is_taken() -> None:
    assert chosen(0.05, {0.9: 8, 0.5: 4, 0.1: 6}) == {"r2v": 0.5}


@pytest.mark.parametrize(("name", "threshold"), [("r2v", 0.5), ("r2v_no_cvar", 0.7)])
def test_without_cvar_the_mean_counts(name: str, threshold: float) -> None:
    # Four failures of 200 episodes: a mean of .02, a CVaR of .1.
    assert chosen(0.06, {0.9: 20, 0.7: 4, 0.5: 2}, name) == {name: threshold}


def test_with_a_margin_fewer_promises_are_broken_on_new_tasks() -> None:
    # Ten thresholds on thirty tasks, independent of each other, all seeds alike: a half is what a
    # point estimate does.
    losses = np.linspace(0.0, 0.18, 10)
    rng, broken = np.random.default_rng(0), {0.5: 0, 0.9: 0}
    for repetition in range(100):
        arms = [arm("teacher_only", None, np.ones((30, SEEDS)))]
        for threshold, loss in zip(np.linspace(0.1, 0.9, 10), losses, strict=True):
            arms.append(
                arm(
                    "r2v",
                    float(threshold),
                    np.repeat(rng.random((30, 1)) >= loss, SEEDS, axis=1).astype(float),
                )
            )
        for margin in broken:
            picked = selected_thresholds(arms, Tolerance(0.06, margin, ALPHA, 300, repetition))[
                "r2v"
            ]
            broken[margin] += float(np.interp(picked, np.linspace(0.1, 0.9, 10), losses)) > 0.06
    assert broken[0.9] < broken[0.5] / 2


def test_the_tail_mass_is_that_of_the_configuration() -> None:
    # Four failures of 200 episodes under one seed: a CVaR of .2 over the worst seed, .1 over the
    # worst two, .02 over all ten.
    losing, sure = np.ones((TASKS, SEEDS)), np.ones((TASKS, SEEDS))
    losing[:4, 0] = 0.0
    arms = [arm("teacher_only", None, sure), arm("r2v", 0.9, losing), arm("r2v", 0.1, sure)]
    for alpha, expected in ((0.1, 0.1), (0.2, 0.9), (1.0, 0.9)):
        config = load_config(
            DEMO, [f"router.alpha={alpha}", "evaluate.epsilon=0.15", "evaluate.confidence=0.5"]
        )
        assert selected_thresholds(arms, Tolerance.of(config, 0)) == {"r2v": expected}
        assert router_rows(arms, config.alpha, 10, 0)[1].cvar_failure == pytest.approx(0.02 / alpha)
    assert load_config(DEMO, ["router=null"]).alpha == RouterConfig().alpha


def test_the_limit_is_the_quantile_of_the_resampled_excess() -> None:
    rng = np.random.default_rng(1)
    ours, teachers = (
        arm(name, 0.5, (rng.random((12, SEEDS)) < p).astype(float))
        for name, p in (("r2v", 0.7), ("teacher_only", 0.9))
    )
    draws = np.random.default_rng(2).integers(0, 12, (4000, 12))
    excess = [
        cvar_failure(ours.success_TZ[d], 0.2) - cvar_failure(teachers.success_TZ[d], 0.2)
        for d in draws
    ]
    limit = float(np.quantile(excess, 0.8))
    assert Tolerance(limit + 0.02, 0.8, ALPHA, 4000, 0).keeps(ours, teachers)
    assert not Tolerance(limit - 0.02, 0.8, ALPHA, 4000, 0).keeps(ours, teachers)
