"""Calibrators against brute force, and against a distortion that is known."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2v_dist.router.calibration import (
    Array,
    Calibrator,
    choose_calibrator,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    logit,
    sigmoid,
)


def drawn(truth: Array, n: int, seed: int) -> tuple[Array, Array]:
    """Failures and branches at states of known risk."""
    return np.random.default_rng(seed).binomial(n, truth).astype(float), np.full(
        len(truth), float(n)
    )


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=6))
@settings(max_examples=100)
def test_isotonic_is_the_least_squares_monotone_fit(rows: list[tuple[int, int]]) -> None:
    failures, n = (
        np.array([float(min(f, k)) for f, k in rows]),
        np.array([float(k) for _, k in rows]),
    )
    p = np.linspace(0.1, 0.9, len(rows))
    fitted = fit_isotonic(p, failures, n)(p)
    assert (np.diff(fitted) >= -1e-12).all()
    # Every monotone fit is a partition into runs with their means; the best of those whose means
    # rise is the answer.
    best = np.inf
    for cuts in itertools.product((0, 1), repeat=len(rows) - 1):
        run = np.concatenate([[0], np.cumsum(cuts)]).astype(int)
        means = np.bincount(run, failures) / np.bincount(run, n)
        if (np.diff(means) >= 0).all():
            best = min(best, float((n * (means[run] - failures / n) ** 2).sum()))
    assert (n * (fitted - failures / n) ** 2).sum() == pytest.approx(best, abs=1e-9)


def test_isotonic_pools_equal_predictions() -> None:
    fitted = fit_isotonic(
        np.array([0.5, 0.5, 0.2]), np.array([1.0, 0.0, 0.0]), np.array([1.0, 3.0, 2.0])
    )
    np.testing.assert_allclose(fitted(np.array([0.5, 0.2])), [0.25, 0.0])


def test_a_known_distortion_is_undone() -> None:
    truth = np.random.default_rng(0).beta(1, 2, 4000)
    failures, n = drawn(truth, 8, 1)
    sharpened = fit_temperature(sigmoid(2.0 * logit(truth)), failures, n)
    assert sharpened.slope == pytest.approx(0.5, abs=0.02)
    shifted = fit_platt(sigmoid(2.0 * logit(truth) + 1.0), failures, n)
    assert shifted.slope == pytest.approx(0.5, abs=0.02)
    assert shifted.offset == pytest.approx(-0.5, abs=0.04)
    bent = fit_isotonic(truth**3, failures, n)
    assert np.abs(bent(truth**3) - truth).mean() < 0.03


def test_fits_hold_where_the_data_are_separable_or_upside_down() -> None:
    p, n = np.array([0.1, 0.2, 0.8, 0.9]), np.ones(4)
    assert np.isfinite(fit_platt(p, np.array([0.0, 0, 1, 1]), n).slope)
    upside_down = fit_platt(p, np.array([1.0, 1, 0, 0]), n)
    np.testing.assert_allclose(upside_down(p), 0.5, atol=1e-6)
    assert fit_temperature(p, np.array([1.0, 1, 0, 0]), n).slope == 0.0


def test_the_kind_is_chosen_on_held_out_tasks() -> None:
    rng = np.random.default_rng(2)
    truth, task = rng.beta(1, 2, 3000), np.arange(3000) // 30
    failures, n = drawn(truth, 8, 3)
    offset = choose_calibrator(sigmoid(logit(truth) + 1.5), failures, n, task, seed=0)
    scores = dict(offset.brier)
    assert offset.calibrator.kind == "platt"
    assert scores["platt"] < scores["temperature"]
    stairs = np.where(truth < 0.3, 0.5 + truth / 10, 0.9 + truth / 20)
    assert choose_calibrator(stairs, failures, n, task, seed=0).calibrator.kind == "isotonic"
    with pytest.raises(ValueError, match="two tasks"):
        choose_calibrator(truth[:30], failures[:30], n[:30], task[:30], seed=0)


def test_states_without_branches_are_ignored() -> None:
    truth, task = np.random.default_rng(4).beta(1, 2, 600), np.arange(600) // 10
    failures, n = drawn(truth, 4, 5)
    more_p, more_failures, more_n = (
        np.concatenate([values, np.full(50, fill)])
        for values, fill in ((truth, 0.9), (failures, 0.0), (n, 0.0))
    )
    chosen = choose_calibrator(
        more_p, more_failures, more_n, np.concatenate([task, np.zeros(50, int)]), seed=0
    )
    assert chosen.calibrator == choose_calibrator(truth, failures, n, task, seed=0).calibrator


@pytest.mark.parametrize(
    "calibrator",
    [
        Calibrator(),
        Calibrator("platt", 0.7, -0.2),
        Calibrator("temperature", 1.3),
        Calibrator("isotonic", x=(0.1, 0.4), y=(0.0, 0.9)),
    ],
)
def test_json_keeps_the_map(calibrator: Calibrator) -> None:
    p = np.linspace(0, 1, 11)
    again = Calibrator.from_json(json.loads(json.dumps(calibrator.to_json())))
    assert again == calibrator
    np.testing.assert_array_equal(again(p), calibrator(p))
    assert (np.diff(calibrator(p)) >= 0).all()
