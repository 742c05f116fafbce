"""Frontiers against brute force over chords, and paired comparisons with a known answer."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2v_dist.stats.frontier import Ends, RouterCurve, apgr, cpt, frontier_auc, hull, pgr
from r2v_dist.stats.hypothesis_tests import PValue, holm, sign_flip_test
from tests.paired_areas import auc_difference

points = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=1, max_size=7)


def best_mix(rows: list[tuple[int, int]], cost: float) -> float:
    """The most success that one point or a mix of two gives for at most `cost`."""
    best = -np.inf
    for (c1, s1), (c2, s2) in itertools.product(rows, rows):
        if c1 <= cost:
            best = max(best, s1)
        if c1 < cost < c2:
            best = max(best, s1 + (s2 - s1) * (cost - c1) / (c2 - c1))
    return best


@given(points)
@settings(max_examples=200)
def test_the_hull_is_the_best_mix_at_every_budget(rows: list[tuple[int, int]]) -> None:
    found = hull([c for c, _ in rows], [s for _, s in rows])
    for cost in np.linspace(0, 11, 23).tolist():
        assert found.at(cost) == pytest.approx(best_mix(rows, cost))
    assert (np.diff(found.cost_V) > 0).all()
    assert (np.diff(found.success_V) > 0).all()


@given(points, st.floats(0, 5), st.floats(5.1, 12))
@settings(max_examples=100)
def test_the_area_is_the_integral(rows: list[tuple[int, int]], low: float, high: float) -> None:
    cheapest = min(c for c, _ in rows)
    steps = low + (high - low) * (np.arange(4000) + 0.5) / 4000
    found = hull([c for c, _ in rows], [s for _, s in rows])
    numeric = np.mean([found.at(c) if c >= cheapest else 0.0 for c in steps.tolist()]) * (
        high - low
    )
    assert found.area(low, high) == pytest.approx(numeric, abs=0.03)


def curve(*rows: tuple[float, float], tasks: int = 1) -> RouterCurve:
    cost, success = np.array(rows).T
    return RouterCurve(np.repeat(cost[:, None], tasks, 1), np.repeat(success[:, None], tasks, 1))


def test_measures_of_a_frontier_by_hand() -> None:
    # Teacher-only makes 10 calls. A router that is as good at 2 calls: the area misses half of the
    # first fifth of the gap.
    ends = Ends(curve((0.0, 0.6)), curve((10.0, 1.0)))
    good, random = curve((2.0, 1.0)), curve((5.0, 0.8))
    assert frontier_auc(good, ends) == pytest.approx(1 - 0.4 * 0.1)
    assert apgr(good, ends) == pytest.approx(0.9)
    assert apgr(random, ends) == pytest.approx(0.5)
    assert [cpt(good, ends, share) for share in (0.5, 0.8, 0.95)] == pytest.approx(
        [0.1, 0.16, 0.19]
    )
    assert cpt(random, ends, 0.8) == pytest.approx(0.8)
    assert cpt(random, ends, 1.1) is None
    assert pgr(0.9, 0.6, 1.0) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="no gap"):
        apgr(good, Ends(curve((0.0, 1.0)), curve((10.0, 1.0))))


def test_a_useless_router_is_worth_the_chord() -> None:
    ends = Ends(curve((0.0, 0.5)), curve((8.0, 0.9)))
    assert frontier_auc(curve((6.0, 0.4)), ends) == pytest.approx(0.7)


def simulated(gain: float, seed: int, tasks: int = 40) -> tuple[RouterCurve, RouterCurve, Ends]:
    """Two routers at three operating points; the first succeeds `gain` more often at each."""
    rng = np.random.default_rng(seed)
    easy_T = rng.beta(3, 2, tasks)

    def played(rate: float, success_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(10 * rate, 0.3, tasks), rng.binomial(10, np.clip(success_T, 0, 1)) / 10

    def router(extra: float) -> RouterCurve:
        rows = [played(rate, easy_T + rate * (1 - easy_T) + extra) for rate in (0.25, 0.5, 0.75)]
        return RouterCurve(np.stack([c for c, _ in rows]), np.stack([s for _, s in rows]))

    ends = Ends(
        RouterCurve(np.zeros((1, tasks)), played(0, easy_T)[1][None]),
        RouterCurve(np.full((1, tasks), 10.0), np.ones((1, tasks))),
    )
    return router(gain), router(0.0), ends


def test_the_paired_bootstrap_finds_a_difference_and_none_where_there_is_none() -> None:
    better, base, ends = simulated(0.15, 0)
    found = auc_difference([better], [base], ends, 300, 0)
    assert found.low > 0
    assert found.low <= found.difference <= found.high
    assert auc_difference([base], [base], ends, 50, 0).high == 0.0
    both = auc_difference([better, base], [base], ends, 20, 0)
    assert both.difference == pytest.approx(found.difference / 2)
    excluded = 0
    for seed in range(60):
        one, other, there = simulated(0.0, seed)
        same = auc_difference([one], [other], there, 100, seed)
        excluded += not same.low <= 0 <= same.high
    assert excluded <= 8


@pytest.mark.parametrize("count", [1, 4, 12, 16])
def test_sign_flips_are_counted_exactly_where_few_tasks_differ(count: int) -> None:
    differences = np.random.default_rng(count).normal(0.2, 0.5, count)
    sums = np.array(list(itertools.product((-1, 1), repeat=count))) @ differences
    found = sign_flip_test(differences, 0, flips=1)
    assert found.p == PValue(float(np.mean(sums >= differences.sum() - 1e-9)))
    assert found.differing == count


def test_tasks_that_do_not_differ_count_for_nothing() -> None:
    differences = np.array([0.5, 0.2, -0.1, 0.4])
    padded = np.concatenate([np.zeros(60), differences, np.full(60, 1e-17)])
    assert sign_flip_test(padded, 0) == sign_flip_test(differences, 0)
    nothing = sign_flip_test(np.zeros(40), 0)
    assert (nothing.p, nothing.differing) == (PValue(1.0), 0)


def binomial_tail(trials: int, least: int) -> float:
    """P(Bin(trials, 1/2) >= least)."""
    return sum(math.comb(trials, i) for i in range(least, trials + 1)) / 2**trials


@pytest.mark.parametrize(
    ("tasks", "lost"), [(8, 0), (12, 3), (16, 0), (17, 4), (30, 10), (200, 88)]
)
def test_equal_differences_are_a_binomial_test(tasks: int, lost: int) -> None:
    differences = np.repeat([0.3, -0.3], [tasks - lost, lost])
    exact = binomial_tail(tasks, tasks - lost)
    found = sign_flip_test(differences, 3)
    error = 0.0 if tasks <= 16 else 4 * math.sqrt(exact / 100_000)
    assert found.p.value == pytest.approx(exact, abs=error + 1e-12)
    assert not found.p.at_floor


def test_random_flips_end_at_a_floor_that_is_said() -> None:
    # The exact value is 2 to the power of -40; of 16 tasks it is enumerated and no floor.
    found = sign_flip_test(np.full(40, 0.1), 0)
    assert found.p == PValue(1 / 100_001, at_floor=True)
    assert sign_flip_test(np.full(16, 0.1), 0).p == PValue(2.0**-16)


def test_sign_flips_reject_a_true_null_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    rejected = [
        sign_flip_test(rng.normal(0, 1, 30), i, flips=199).p.value <= 0.1 for i in range(1000)
    ]
    assert np.mean(rejected) == pytest.approx(0.1, abs=0.03)


def test_holm_by_hand() -> None:
    plain = holm([PValue(p) for p in (0.01, 0.04, 0.03, 0.005)])
    assert [p.value for p in plain] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert not any(p.at_floor for p in plain)
    assert holm([PValue(0.5), PValue(0.9)]) == [PValue(1.0), PValue(1.0)]
    assert holm([]) == []


def test_holm_keeps_the_floor() -> None:
    floor = PValue(0.001, at_floor=True)
    found = holm([PValue(0.04), floor, PValue(0.0012), floor])
    assert [p.value for p in found] == pytest.approx([0.04, 0.004, 0.004, 0.004])
    # The third is held up by the first two, so it is an upper bound as well.
    assert [p.at_floor for p in found] == [False, True, True, True]
    assert holm([PValue(0.6, at_floor=True), PValue(0.7)]) == [PValue(1.0), PValue(1.0)]
