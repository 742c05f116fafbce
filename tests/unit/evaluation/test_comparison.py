"""r2v against other routers: the resampled areas, the cost that is matched, and what is averaged
before a task counts.
"""

import numpy as np
import pytest

from r2v_dist.evaluation.comparison import SeedArms, compare, resampled_areas
from r2v_dist.evaluation.outcomes import ArmOutcomes
from r2v_dist.report.html.templates import p_value
from r2v_dist.stats.frontier import Ends, RouterCurve, frontier_auc
from r2v_dist.stats.hypothesis_tests import holm, sign_flip_test
from r2v_dist.stats.mixing import at_cost
from tests.arms import STEPS, TASKS, arm
from tests.paired_areas import auc_difference


def a_seed(seed: int = 0, training_seed: int = 0) -> SeedArms:
    rng = np.random.default_rng(seed)
    arms = [arm("slm_only", None, 0.4, 0.0, rng), arm("teacher_only", None, 1.0, 1.0, rng)]
    arms += [
        arm("r2v", t, s, c, rng)
        for t, s, c in ((0.2, 0.95, 0.5), (0.5, 0.85, 0.25), (0.8, 0.6, 0.1))
    ]
    arms += [arm("entropy", t, s, c, rng) for t, s, c in ((0.3, 0.9, 0.7), (0.9, 0.6, 0.3))]
    arms += [arm("random", r, 0.4 + 0.6 * r, r, rng) for r in (0.1, 0.3, 0.6)]
    arms += [arm("r2v_joint", t, s, c, rng) for t, s, c in ((0.3, 0.9, 0.6), (0.9, 0.6, 0.3))]
    return SeedArms(training_seed, tuple(arms), {"r2v": 0.5, "entropy": 0.3}, "slm_only")


def test_resampled_areas_are_those_of_the_frontier() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        points = int(rng.integers(1, 6))
        # Points may cost more than the teacher alone, be worse than the SLM, or repeat each other.
        curve = RouterCurve(rng.random((points, TASKS)) * 1.3 * STEPS, rng.random((points, TASKS)))
        slm = RouterCurve(rng.random((1, TASKS)), rng.random((1, TASKS)) * 0.6)
        teacher = RouterCurve(np.full((1, TASKS), float(STEPS)), 0.5 + rng.random((1, TASKS)) / 2)
        curve = RouterCurve(
            np.concatenate([curve.cost_PT, curve.cost_PT[:1]]),
            np.concatenate([curve.success_PT, curve.success_PT[:1]]),
        )
        ends = Ends(slm, teacher)
        tasks_BT = rng.integers(0, TASKS, (30, TASKS))
        expected = [frontier_auc(curve.on(drawn), ends.on(drawn)) for drawn in tasks_BT]
        np.testing.assert_allclose(resampled_areas(curve, ends, tasks_BT), expected, rtol=1e-12)


def test_one_training_seed_is_the_paired_difference_of_the_frontiers() -> None:
    one = a_seed()
    found = compare([one], 200, 5)
    assert found is not None
    for other in found.others:
        expected = auc_difference([one.curve("r2v")], [one.curve(other.other)], one.ends, 200, 5)
        assert other.auc_difference.difference == pytest.approx(expected.difference)
        assert other.auc_difference.low == pytest.approx(expected.low)
        assert other.auc_difference.high == pytest.approx(expected.high)
    assert found.auc == pytest.approx(frontier_auc(one.curve("r2v"), one.ends))


def test_the_cost_is_matched_by_mixing_neighbours_and_tested_by_task() -> None:
    one = a_seed()
    found = compare([one], 500, 5)
    assert found is not None
    chosen = one.chosen("r2v")
    assert chosen is not None
    assert found.cost == pytest.approx(chosen.calls_TZ.mean())
    p_values = {}
    for other in found.others:
        own = [*one.points("slm_only"), *one.points(other.other), *one.points("teacher_only")]
        values = at_cost(
            [a.calls_TZ.mean() for a in own],
            np.stack([a.success_TZ.mean(axis=1) for a in own]),
            found.cost,
        )
        gap_T = chosen.success_TZ.mean(axis=1) - values
        assert other.matched_success == pytest.approx(values.mean())
        assert other.matched_difference is not None
        assert other.matched_difference.difference == pytest.approx(gap_T.mean())
        assert other.matched_difference.low <= gap_T.mean() <= other.matched_difference.high
        test = sign_flip_test(gap_T, 5)
        assert other.differing_tasks == test.differing <= TASKS
        assert other.p_value == pytest.approx(test.p.value)
        assert other.p_at_floor is False
        p_values[other.other] = test.p
    baselines = ["entropy", "random"]
    adjusted = dict(zip(baselines, holm([p_values[name] for name in baselines]), strict=True)) | {
        "r2v_joint": p_values["r2v_joint"]
    }
    assert {other.other: other.p_holm for other in found.others} == pytest.approx(
        {name: p.value for name, p in adjusted.items()}
    )
    assert {other.other: other.family for other in found.others} == {
        "entropy": "baseline",
        "random": "baseline",
        "r2v_joint": "ablation",
    }


def test_a_p_value_at_its_floor_is_said_to_be_there() -> None:
    """r2v solves all of thirty tasks, the baselines none but at the price of the teacher: no random
    flip comes near.
    """
    tasks = tuple(f"game{i:02d}" for i in range(30))

    def sure(name: str, threshold: float | None, success: float, calls: float) -> ArmOutcomes:
        full = np.ones((30, 2))
        return ArmOutcomes(
            name, threshold, 0, "test", tasks, (0, 1), success * full, calls * full, 8 * full
        )

    ends = (sure("slm_only", None, 0.0, 0.0), sure("teacher_only", None, 1.0, 8.0))
    routers = (
        sure("r2v", 0.5, 1.0, 1.0),
        sure("entropy", 0.5, 0.0, 2.0),
        sure("random", 0.5, 0.5, 4.0),
    )
    found = compare([SeedArms(0, (*ends, *routers), {"r2v": 0.5}, "slm_only")], 100, 0)
    assert found is not None
    for other in found.others:
        assert other.differing_tasks == 30
        assert other.p_value == pytest.approx(1 / 100_001)
        assert other.p_holm == pytest.approx(2 / 100_001)
        assert other.p_at_floor is other.p_holm_at_floor is True
        assert p_value(other.p_holm, other.p_holm_at_floor) == "≤ 2e-05"
        assert other.as_dict()["differing_tasks"] == 30


def test_training_seeds_are_averaged_before_a_task_counts() -> None:
    first, second = a_seed(0), a_seed(1, 1)
    both, twice, alone = (
        compare([first, second], 300, 5),
        compare([first, first], 300, 5),
        compare([first], 300, 5),
    )
    other = compare([second], 300, 5)
    assert both is not None
    assert alone is not None
    assert other is not None
    assert twice is not None
    assert twice.others == alone.others
    assert both.auc == pytest.approx((alone.auc + other.auc) / 2)
    for joint, a, b in zip(both.others, alone.others, other.others, strict=True):
        assert joint.auc_difference.difference == pytest.approx(
            (a.auc_difference.difference + b.auc_difference.difference) / 2
        )
        assert a.matched_success is not None
        assert b.matched_success is not None
        assert joint.matched_success == pytest.approx((a.matched_success + b.matched_success) / 2)


def test_what_cannot_be_compared_is_none() -> None:
    one = a_seed()
    without = SeedArms(0, tuple(a for a in one.arms if a.name != "r2v"), {}, "slm_only")
    assert compare([without], 100, 0) is None
    assert compare([], 100, 0) is None
    unselected = compare([SeedArms(0, one.arms, {}, "slm_only")], 100, 0)
    assert unselected is not None
    assert (unselected.cost, unselected.success, unselected.pgr) == (None, None, None)
    assert all(
        other.p_value is None and other.matched_success is None for other in unselected.others
    )
    assert one.matched("entropy", 2.0 * STEPS) is None
