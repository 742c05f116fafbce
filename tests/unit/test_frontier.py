"""Frontiers against brute force over chords, and paired comparisons with a known answer."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2v_dist.frontier import Ends, RouterCurve, aiq, apgr, cpt, frontier_auc, holm, hull, pgr, sign_flip_p
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
@settings(max_examples=200, deadline=None)
def test_the_hull_is_the_best_mix_at_every_budget(rows: list[tuple[int, int]]) -> None:
    found = hull([c for c, _ in rows], [s for _, s in rows])
    for cost in np.linspace(0, 11, 23).tolist():
        assert found.at(cost) == pytest.approx(best_mix(rows, cost))
    assert (np.diff(found.cost_V) > 0).all()
    assert (np.diff(found.success_V) > 0).all()


@given(points, st.floats(0, 5), st.floats(5.1, 12))
@settings(max_examples=100, deadline=None)
def test_the_area_is_the_integral(rows: list[tuple[int, int]], low: float, high: float) -> None:
    cheapest = min(c for c, _ in rows)
    steps = low + (high - low) * (np.arange(4000) + 0.5) / 4000
    found = hull([c for c, _ in rows], [s for _, s in rows])
    numeric = np.mean([found.at(c) if c >= cheapest else 0.0 for c in steps.tolist()]) * (high - low)
    assert found.area(low, high) == pytest.approx(numeric, abs=0.03)


def curve(*rows: tuple[float, float], tasks: int = 1) -> RouterCurve:
    cost, success = np.array(rows).T
    return RouterCurve(np.repeat(cost[:, None], tasks, 1), np.repeat(success[:, None], tasks, 1))


def test_measures_of_a_frontier_by_hand() -> None:
    # Teacher-only makes 10 calls. A router that is as good at 2 calls: the area misses half of the first fifth of the gap.
    ends = Ends(curve((0.0, 0.6)), curve((10.0, 1.0)))
    good, random = curve((2.0, 1.0)), curve((5.0, 0.8))
    assert frontier_auc(good, ends) == pytest.approx(1 - 0.4 * 0.1)
    assert apgr(good, ends) == pytest.approx(0.9)
    assert apgr(random, ends) == pytest.approx(0.5)
    assert [cpt(good, ends, share) for share in (0.5, 0.8, 0.95)] == pytest.approx([0.1, 0.16, 0.19])
    assert cpt(random, ends, 0.8) == pytest.approx(0.8)
    assert cpt(random, ends, 1.1) is None
    assert pgr(0.9, 0.6, 1.0) == pytest.approx(0.75)
    assert aiq([0.0, 0.2, 1.0], [0.6, 1.0, 1.0]) == pytest.approx(0.96)
    with pytest.raises(ValueError, match="no gap"):
        apgr(good, Ends(curve((0.0, 1.0)), curve((10.0, 1.0))))
    with pytest.raises(ValueError, match="different cost"):
        aiq([1.0], [0.5])


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

    ends = Ends(RouterCurve(np.zeros((1, tasks)), played(0, easy_T)[1][None]), RouterCurve(np.full((1, tasks), 10.0), np.ones((1, tasks))))
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


def test_sign_flips_are_counted_exactly_and_sampled_closely() -> None:
    differences = np.array([0.5, 0.2, -0.1, 0.4])
    sums = [np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=4)]
    assert sign_flip_p(differences, 0, 0) == np.mean([value >= differences.sum() - 1e-12 for value in sums])
    assert sign_flip_p(np.zeros(5), 0, 0) == 1.0
    rng = np.random.default_rng(0)
    many = rng.normal(0.1, 0.5, 13)
    exact = np.mean(np.array(list(itertools.product((-1, 1), repeat=13))) @ many >= many.sum() - 1e-12)
    assert sign_flip_p(many, 20000, 0) == pytest.approx(exact, abs=0.01)


def test_sign_flips_reject_a_true_null_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    rejected = [sign_flip_p(rng.normal(0, 1, 30), 199, i) <= 0.1 for i in range(1000)]
    assert np.mean(rejected) == pytest.approx(0.1, abs=0.03)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
