"""Operating points: chosen on validation, measured on test, a mix in expectation over its draws."""

import numpy as np
import pytest

from r2v_dist.evaluation.comparison import SeedArms
from r2v_dist.evaluation.operating_points import ChosenPoint, Prices, bayes_point, live_points
from r2v_dist.evaluation.outcomes import ArmOutcomes
from r2v_dist.evaluation.threshold_selection import Tolerance
from tests.arms import SEEDS, STEPS, TASKS, arm

PRICES = Prices(slm=0.02, failure=20.0)
TOLERANCE = Tolerance(epsilon=0.05, margin=0.9, alpha=0.2, resamples=200, seed=0)
POINTS = ((0.2, 1.0, 0.8), (0.5, 0.85, 0.4), (0.8, 0.6, 0.1))


def seed_arms(seed: int, points: tuple[tuple[float, float, float], ...] = POINTS) -> SeedArms:
    rng = np.random.default_rng(seed)
    arms = [arm("slm_only", None, 0.4, 0.0, rng), arm("teacher_only", None, 1.0, 1.0, rng)]
    return SeedArms(
        0, (*arms, *(arm("r2v", t, s, c, rng) for t, s, c in points)), {"r2v": 0.2}, "slm_only"
    )


def found(budget: float | None = 0.5) -> tuple[dict[str, ChosenPoint], SeedArms, SeedArms]:
    validation, test = seed_arms(0), seed_arms(1)
    return (
        {point.kind: point for point in live_points(validation, test, budget, PRICES, TOLERANCE)},
        validation,
        test,
    )


def at(one: SeedArms, threshold: float | None) -> ArmOutcomes:
    return next(a for a in one.points("r2v") if a.threshold == threshold)


def test_the_selected_point_is_measured_on_test() -> None:
    points, _, test = found()
    assert points["selected"].test is not None
    assert points["selected"].test.success_rate == pytest.approx(at(test, 0.2).success_TZ.mean())
    assert "at most 0.05" in points["selected"].note
    assert points["selected"].kept is True
    assert {point.kept for kind, point in points.items() if kind != "selected"} == {None}
    infeasible = live_points(
        SeedArms(0, seed_arms(0).arms, {"r2v": 0.8}, "slm_only"), test, None, PRICES, TOLERANCE
    )[0]
    assert infeasible.note.startswith("no threshold has")
    assert infeasible.kept is False


def test_the_budget_is_met_on_validation_by_two_neighbours() -> None:
    points, validation, test = found(0.5)
    mix = points["budget"]
    assert (mix.threshold, mix.cheap) == (0.2, 0.5)
    dear, cheap, teacher = (
        at(validation, 0.2),
        at(validation, 0.5),
        validation.points("teacher_only")[0],
    )
    spent = (
        mix.share * dear.calls_TZ.mean() + (1 - mix.share) * cheap.calls_TZ.mean()
    ) / teacher.calls_TZ.mean()
    assert spent == pytest.approx(0.5)
    assert mix.validation_call_fraction == pytest.approx(0.5)
    assert mix.test is not None
    expected = mix.share * at(test, 0.2).success_TZ + (1 - mix.share) * at(test, 0.5).success_TZ
    assert mix.test.success_rate == pytest.approx(expected.mean())
    assert mix.test.worst_seed_success == pytest.approx(expected.mean(axis=0).min())
    calls = (
        mix.share * at(test, 0.2).calls_TZ.sum() + (1 - mix.share) * at(test, 0.5).calls_TZ.sum()
    )
    assert mix.test.llm_call_rate == pytest.approx(calls / (TASKS * SEEDS * STEPS))


def test_a_budget_out_of_reach_is_said_and_none_is_not_tried() -> None:
    points, _, _ = found(0.01)
    assert points["budget"].threshold is None
    assert points["budget"].test is None
    assert "already costs" in points["budget"].note
    assert "budget" not in found(None)[0]


def test_the_least_expected_cost_by_hand() -> None:
    points, validation, _ = found()
    costs = {
        t: (
            at(validation, t).calls_TZ + 0.02 * STEPS + 20 * (1 - at(validation, t).success_TZ)
        ).mean()
        for t, _, _ in POINTS
    }
    assert points["expected_cost"].threshold == min(costs, key=lambda t: costs[t])


def test_the_bayes_rule_is_stated_but_not_played() -> None:
    point = bayes_point(np.array([0.5, 0.5, 0.1]), np.array([0.1, 0.46, 0.1]), 0, PRICES)
    assert point.threshold == pytest.approx(0.98 / 20)
    assert point.test is None
    assert "33.3%" in point.note
    assert "no risk after one teacher step" in bayes_point(np.array([0.5]), None, 0, PRICES).note
