"""The off-policy estimator against closed forms, enumeration and tables."""

import numpy as np
import pytest

from r2v_dist.stats.off_policy import (
    doubly_robust,
    mean_interval,
    proportion_interval,
    student_quantile,
)

FIRST = np.array([1.0, 0.0])


def data(seed: int, count: int = 400) -> tuple[np.ndarray, ...]:
    """Conversations of two kinds x; the action 1 is taken with probability .2, and it decides."""
    rng = np.random.default_rng(seed)
    x_N = rng.normal(size=count)
    acts_N = rng.random(count) < 0.2
    wins_N = rng.random(count) < 1 / (1 + np.exp(-(x_N * 2 + acts_N)))
    outcome_NY = np.column_stack([wins_N, x_N + 3 * acts_N])
    return outcome_NY, acts_N / 0.2, x_N[:, None], np.arange(count)


def test_equal_weights_give_the_plain_mean_and_its_error() -> None:
    outcome_NY, _, x_NX, cluster_N = data(0)
    found = doubly_robust(outcome_NY, np.ones(400), x_NX * 0, cluster_N)
    assert found.mean_Y == pytest.approx(outcome_NY.mean(axis=0))
    assert found.effective == pytest.approx(400)
    assert found.mean_weight == 1
    spread_Y = outcome_NY.std(axis=0, ddof=1)
    for place in range(2):
        plain = spread_Y[place] / 20
        one_more = outcome_NY.std(axis=0)[place] / 400
        assert found.error(np.eye(2)[place]) == pytest.approx(np.hypot(plain, one_more), rel=0.01)
    again = doubly_robust(outcome_NY, np.ones(400), x_NX, cluster_N)
    assert again.mean_Y == pytest.approx(outcome_NY.mean(axis=0))


def test_it_is_unbiased_and_sharper_than_weighting_alone() -> None:
    rng = np.random.default_rng(99)
    x_N = rng.normal(size=1_000_000)
    true_success = float((1 / (1 + np.exp(-(x_N * 2 + 1)))).mean())
    errors, weighted, reach = [], [], []
    for seed in range(300):
        outcome_NY, weight_N, x_NX, cluster_N = data(seed)
        found = doubly_robust(outcome_NY, weight_N, x_NX, cluster_N)
        errors.append((found.mean_Y - [true_success, 3.0]).tolist())
        weighted.append(float(weight_N @ outcome_NY[:, 0] / 400) - true_success)
        reach.append(found.error(FIRST))
    error_EY = np.array(errors)
    assert np.abs(error_EY.mean(axis=0)) == pytest.approx([0, 0], abs=0.015)
    assert error_EY[:, 0].std() < 0.6 * np.std(weighted)
    assert np.mean(reach) == pytest.approx(error_EY[:, 0].std(), rel=0.15)


def test_conversations_of_one_draw_count_once() -> None:
    outcome_NY, weight_N, x_NX, cluster_N = data(1)
    single = doubly_robust(outcome_NY, weight_N, x_NX, cluster_N)
    triple = doubly_robust(
        *(np.repeat(a, 3, axis=0) for a in (outcome_NY, weight_N, x_NX, cluster_N))
    )
    assert triple.effective == pytest.approx(single.effective)
    assert triple.mean_Y == pytest.approx(single.mean_Y, abs=0.01)
    assert triple.error(FIRST) == pytest.approx(single.error(FIRST), rel=0.05)


def test_a_quotient_has_the_error_of_its_linearisation() -> None:
    rng = np.random.default_rng(0)
    quotients, said = [], []
    for _ in range(300):
        steps_N = rng.integers(3, 9, 300)
        calls_N = rng.binomial(steps_N, 0.3)
        pair_NY = np.column_stack([calls_N, steps_N]).astype(float)
        found = doubly_robust(pair_NY, np.ones(300), np.zeros((300, 1)), np.arange(300))
        quotient, error = found.ratio(0, 1)
        assert quotient == pytest.approx(calls_N.sum() / steps_N.sum())
        quotients.append(quotient)
        said.append(error)
    assert np.mean(said) == pytest.approx(np.std(quotients), rel=0.12)


def test_no_overlap_is_no_number() -> None:
    outcome_NY, weight_N, x_NX, cluster_N = data(2)
    with pytest.raises(ValueError, match="no conversation"):
        doubly_robust(outcome_NY, 0 * weight_N, x_NX, cluster_N)


@pytest.mark.parametrize(
    ("failures", "low", "high"),  # Garwood's exact interval of a Poisson count, 95 %
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (3, 0.6187, 8.767), (20, 12.217, 30.888)],
)
def test_with_equal_weights_it_is_the_interval_of_a_rare_count(
    failures: int, low: float, high: float
) -> None:
    trials = 10_000
    error = failures**0.5 / trials
    found = proportion_interval(failures / trials, error, 1 / trials)
    assert found[0] * trials == pytest.approx(low, abs=0.04)
    assert found[1] * trials == pytest.approx(high, rel=0.02)
    mirrored = proportion_interval(1 - failures / trials, error, 1 / trials)
    assert mirrored == pytest.approx((1 - found[1], 1 - found[0]))


def test_quantiles_are_those_of_the_tables() -> None:
    table = {5: 2.5706, 10: 2.2281, 30: 2.0423, 1e9: 1.9600}
    for freedom, quantile in table.items():
        assert student_quantile(0.95, freedom) == pytest.approx(quantile, abs=0.005)
    assert student_quantile(0.99, 30) == pytest.approx(2.7500, abs=0.003)
    assert mean_interval(1.0, 0.5, 11, 0.95) == pytest.approx((-0.114, 2.114), abs=0.001)
