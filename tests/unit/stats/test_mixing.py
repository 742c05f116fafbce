"""Operating points on costs that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2v_dist.stats.mixing import at_cost, bayes_escalates, bayes_threshold, meet_budget


def test_bayes_minimises_expected_cost() -> None:
    # At 50 : 1 and a failure worth 200 teacher calls, a step pays from 49 / 200 of risk removed.
    assert bayes_threshold(50, 1, 200) == pytest.approx(0.245)
    rho, rho1 = np.random.default_rng(0).random((2, 500))
    escalates = bayes_escalates(rho, rho1, 50, 1, 200)
    np.testing.assert_array_equal(escalates, 50 + 200 * rho1 <= 1 + 200 * rho)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=9, unique=True), st.floats(0, 60))
@settings(max_examples=100)
def test_a_budget_is_met_exactly_by_adjacent_thresholds(costs: list[int], budget: float) -> None:
    table = dict(
        zip((0.1 * i for i in range(len(costs))), sorted(costs, reverse=True), strict=True)
    )
    thresholds, calls = list(table), list[float]()

    def cost(threshold: float) -> float:
        calls.append(threshold)
        return float(table[threshold])

    if budget < min(costs):
        with pytest.raises(ValueError, match="already costs"):
            meet_budget(thresholds, cost, budget)
        return
    mix = meet_budget(thresholds, cost, budget)
    assert mix.share * table[mix.expensive] + (1 - mix.share) * table[mix.cheap] == pytest.approx(
        min(budget, max(costs))
    )
    assert mix.cost == pytest.approx(min(budget, max(costs)))
    assert thresholds.index(mix.cheap) - thresholds.index(mix.expensive) <= 1
    assert len(calls) <= 2 + np.ceil(np.log2(len(costs)))


def test_noise_in_the_costs_leaves_the_budget_between_the_two() -> None:
    noisy = dict(zip([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [10.0, 6.0, 7.0, 4.0, 5.0, 0.0], strict=True))
    for budget in (1.0, 4.5, 6.5, 9.0):
        mix = meet_budget(list(noisy), noisy.__getitem__, budget)
        assert noisy[mix.cheap] <= budget < noisy[mix.expensive]


def test_values_at_a_cost_are_mixed_and_never_extrapolated() -> None:
    values = np.array([[0.0, 0.2], [1.0, 0.6], [0.5, 0.5]])
    np.testing.assert_allclose(at_cost([0.1, 0.5, 0.3], values, 0.2), [0.25, 0.35])
    np.testing.assert_allclose(at_cost([0.1, 0.5, 0.3], values, 0.5), [1.0, 0.6])
    np.testing.assert_allclose(at_cost([0.1, 0.1, 0.3], values, 0.1), [0.5, 0.4])
    with pytest.raises(ValueError, match="outside"):
        at_cost([0.1, 0.5, 0.3], values, 0.6)
