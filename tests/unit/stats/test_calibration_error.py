"""Calibration measures against brute force over single branches."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2v_dist.stats.calibration_error import (
    Array,
    adaptive_ece,
    auroc,
    brier_parts,
    ece,
    equal_mass,
    perfect_ece,
    reliability_bins,
)

states = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 4), st.integers(1, 4)), min_size=2, max_size=12
)


def arrays(rows: list[tuple[int, int, int]]) -> tuple[Array, Array, Array]:
    p, failures, n = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return p / 20, np.minimum(failures, n), n


def branches(p: Array, failures: Array, n: Array) -> list[tuple[float, int]]:
    """Every branch as (forecast, outcome)."""
    return [
        (a, int(i < f))
        for a, f, k in zip(p.tolist(), failures.tolist(), n.tolist(), strict=True)
        for i in range(int(k))
    ]


@given(states)
@settings(max_examples=150)
def test_brier_counts_branches_and_its_parts_add_up(rows: list[tuple[int, int, int]]) -> None:
    p, failures, n = arrays(rows)
    singles = branches(p, failures, n)
    exact, binned = brier_parts(p, failures, n, bins=None), brier_parts(p, failures, n)
    assert exact.brier == pytest.approx(np.mean([(a - y) ** 2 for a, y in singles]))
    assert exact.within_bins == pytest.approx(0.0, abs=1e-12)
    assert binned.brier == pytest.approx(
        binned.reliability - binned.resolution + binned.uncertainty + binned.within_bins
    )
    mean = np.mean([y for _, y in singles])
    assert binned.constant == pytest.approx(np.mean([(mean - y) ** 2 for _, y in singles]))
    assert exact.against_shares == pytest.approx((n * (p - failures / n) ** 2).sum() / n.sum())


@given(states)
@settings(max_examples=150)
def test_ece_is_the_weighted_gap_of_fifteen_bins(rows: list[tuple[int, int, int]]) -> None:
    p, failures, n = arrays(rows)
    singles, gap = branches(p, failures, n), 0.0
    for i in range(15):
        inside = [(a, y) for a, y in singles if i / 15 < a <= (i + 1) / 15 or (i == 0 and a == 0)]
        gap += abs(sum(a - y for a, y in inside)) / len(singles)
    assert ece(p, failures, n) == pytest.approx(gap, abs=1e-12)


@given(states)
@settings(max_examples=150)
def test_auroc_is_the_share_of_ordered_pairs(rows: list[tuple[int, int, int]]) -> None:
    p, failures, n = arrays(rows)
    singles = branches(p, failures, n)
    pairs = [(a, b) for (a, y), (b, x) in itertools.product(singles, singles) if y == 1 and x == 0]
    if not pairs:
        with pytest.raises(ValueError, match="AUROC"):
            auroc(p, failures, n)
        return
    assert auroc(p, failures, n) == pytest.approx(
        np.mean([(a > b) + (a == b) / 2 for a, b in pairs])
    )


def test_adaptive_bins_hold_equal_numbers_of_branches() -> None:
    p = np.linspace(0, 1, 300) ** 3
    assert np.bincount(equal_mass(p, np.ones(300), 15)).tolist() == [20] * 15
    # All forecasts in one equal-width bin, wrong in opposite directions: only adaptive bins see it.
    p, failures, n = np.array([0.01, 0.05]), np.array([5.0, 1.0]), np.array([100.0, 100.0])
    assert ece(p, failures, n) == pytest.approx(0.0)
    assert adaptive_ece(p, failures, n) == pytest.approx(0.04)
    assert [b.branches for b in reliability_bins(p, failures, n, equal_mass(p, n, 2))] == [
        100.0,
        100.0,
    ]


def test_a_perfect_forecaster_shows_the_ece_it_is_said_to() -> None:
    rng = np.random.default_rng(0)
    p, n = rng.beta(1, 2, 200), np.full(200, 4.0)
    expected = perfect_ece(p, n, seed=1)
    shown = [ece(p, rng.binomial(4, p).astype(float), n) for _ in range(500)]
    assert np.mean(shown) == pytest.approx(expected.mean, abs=0.002)
    assert np.mean(np.array(shown) <= expected.upper_95) == pytest.approx(0.95, abs=0.03)
    assert perfect_ece(p, n * 100, seed=1).mean < expected.mean / 5
