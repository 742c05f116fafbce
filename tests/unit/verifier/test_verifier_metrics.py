"""Verifier metrics and isotonic calibration against brute force and closed forms."""

import itertools

import numpy as np
import pytest

from r2v_dist.router.calibration import Isotonic, fit_centred_isotonic, pool_adjacent_violators
from r2v_dist.stats.calibration_error import auroc
from r2v_dist.verifier.metrics import pairwise_accuracy, verifier_curves, verifier_metrics


def random_case(seed: int, size: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 6, size).astype(float)
    values = rng.binomial(n.astype(int), 0.4) / n
    return np.round(rng.random(size), 1), values, n, rng.integers(0, 10, size)


def test_one_kind_of_outcome_has_no_auroc() -> None:
    assert np.isnan(
        verifier_metrics(np.array([0.1, 0.9]), np.array([1.0, 1.0]), np.ones(2), np.arange(2)).auroc
    )


@pytest.mark.parametrize("seed", range(5))
def test_pairwise_accuracy_counts_pairs_of_one_state(seed: int) -> None:
    scores, values, _, group = random_case(seed)
    right, pairs = 0.0, 0
    for i, j in itertools.permutations(range(len(scores)), 2):
        if group[i] == group[j] and values[i] > values[j]:
            pairs += 1
            right += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
    assert pairwise_accuracy(scores, values, group) == (pytest.approx(right / pairs), pairs)


def test_branches_weigh_in_every_measure() -> None:
    scores, values, weights = (
        np.array([0.2, 0.2, 0.9, 1.0]),
        np.array([0.0, 1.0, 1.0, 0.5]),
        np.array([1.0, 3.0, 2.0, 2.0]),
    )
    found = verifier_metrics(scores, values, weights, np.arange(4))
    assert found.brier == pytest.approx((0.04 + 3 * 0.64 + 2 * 0.01 + 2 * 0.25) / 8)
    # 0.2 against 0.75 with weight 4; 0.9 and 1.0 are in two of the fifteen bins.
    assert found.ece == pytest.approx(0.5 * 0.55 + 0.25 * 0.1 + 0.25 * 0.5)
    # Six successes: three at 0.2, two at 0.9, one at 1.0; two failures: one at 0.2, one at 1.0.
    assert found.auroc == pytest.approx((3 * (0.5 + 0) + 2 * (1 + 0) + 1 * (1 + 0.5)) / 12)


def test_a_calibrated_verifier_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    found = verifier_metrics(
        p, (rng.random(len(p)) < p).astype(float), np.ones(len(p)), np.arange(len(p))
    )
    assert found.ece < 0.01
    assert found.brier == pytest.approx(1 / 6, abs=0.003)
    assert found.auroc == pytest.approx(5 / 6, abs=0.005)
    assert (found.pairs, found.candidates) == (0, 200_000)


@pytest.mark.parametrize("seed", range(20))
def test_pooling_is_the_least_squares_non_decreasing_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets, weights = rng.random(6), rng.random(6) + 0.1
    levels, pool = pool_adjacent_violators(targets, weights)
    fit = levels[pool]
    assert (np.diff(fit) >= 0).all()
    # The best fit is constant on blocks, each at its mean: try every way to cut the sequence.
    best = np.inf
    for cuts in itertools.product([False, True], repeat=5):
        blocks = np.split(np.arange(6), [i + 1 for i, cut in enumerate(cuts) if cut])
        means = [np.average(targets[b], weights=weights[b]) for b in blocks]
        if all(a <= b for a, b in itertools.pairwise(means)):
            best = min(
                best,
                sum(
                    (weights[b] * (targets[b] - m) ** 2).sum()
                    for b, m in zip(blocks, means, strict=True)
                ),
            )
    assert (weights * (targets - fit) ** 2).sum() == pytest.approx(best, abs=1e-12)


def test_calibration_keeps_the_order_and_the_mean() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(3000)
    values = rng.binomial(4, scores**3) / 4
    calibrate = fit_centred_isotonic(scores, values, np.full(3000, 4.0))
    fitted = calibrate(np.sort(scores))
    assert (np.diff(fitted) >= 0).all()
    assert np.abs(fitted - np.sort(scores) ** 3).mean() < 0.03
    assert fitted.mean() == pytest.approx(values.mean(), abs=0.01)
    assert calibrate(np.array([-5.0, 5.0])).tolist() == [calibrate.y[0], calibrate.y[-1]]
    assert Isotonic.from_json(calibrate.to_json()) == calibrate


def test_equal_scores_are_pooled_and_weightless_entries_ignored() -> None:
    calibrate = fit_centred_isotonic(
        np.array([0.5, 0.5, 0.9]), np.array([0.0, 1.0, 0.0]), np.array([1.0, 3.0, 0.0])
    )
    assert (calibrate.x, calibrate.y) == ((0.5,), (0.75,))
    with pytest.raises(ValueError, match="at least one"):
        fit_centred_isotonic(np.array([0.5]), np.array([1.0]), np.array([0.0]))


def test_the_area_under_the_roc_points_is_the_auroc() -> None:
    rng = np.random.default_rng(3)
    scores, weights = np.round(rng.random(60), 1), rng.integers(1, 6, 60).astype(np.float64)
    values = np.clip(np.round(scores + rng.normal(0, 0.4, 60), 1), 0, 1)
    points = np.array(verifier_curves(scores, values, weights)["roc"])
    assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(
        auroc(scores, values * weights, weights)
    )
    assert (points[0].tolist(), points[-1].tolist()) == ([0.0, 0.0], [1.0, 1.0])
    assert verifier_curves(scores, np.ones(60), weights)["roc"] == []


def test_reliability_bins_hold_every_branch() -> None:
    curves = verifier_curves(
        np.array([0.1, 0.15, 0.9]), np.array([0.0, 0.5, 1.0]), np.array([2.0, 4.0, 2.0])
    )
    assert sum(one["branches"] for one in curves["reliability"]) == 8
    assert curves["reliability"][-1]["observed"] == 1.0
