"""CVaR, its Rockafellar-Uryasev form and its gradient against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2v_dist.stats.cvar import (
    cvar,
    cvar_failure,
    cvar_noise_floor,
    cvar_weights,
    cvars,
    tail_threshold,
)

losses = st.lists(st.floats(0, 1, width=16), min_size=1, max_size=12).map(np.array)
alphas = st.one_of(st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.5, 1.0]), st.floats(0.01, 1.0))


def rockafellar_uryasev(F_Z: np.ndarray, alpha: float, eta: float) -> float:
    """eta + mean(max(F_Z - eta, 0)) / alpha (RU2000, equation 4)."""
    return float(eta + np.maximum(F_Z - eta, 0.0).sum() / (alpha * len(F_Z)))


@given(losses, alphas)
@settings(max_examples=200)
def test_cvar_is_the_rockafellar_uryasev_minimum_and_eta_attains_it(
    F: np.ndarray, alpha: float
) -> None:
    # The objective is piecewise linear in eta with its kinks at the losses, so one of them attains
    # the minimum.
    least = min(rockafellar_uryasev(F, alpha, eta) for eta in F.tolist())
    assert cvar(F, alpha) == pytest.approx(least, abs=1e-9)
    assert rockafellar_uryasev(F, alpha, tail_threshold(F, alpha)) == pytest.approx(least, abs=1e-9)


@given(losses, alphas)
@settings(max_examples=200)
def test_cvar_is_the_formula_of_order_statistics(F: np.ndarray, alpha: float) -> None:
    mass, ordered = alpha * len(F), sorted(F.tolist(), reverse=True)
    k = int(mass + 1e-12)
    partial = (mass - k) * ordered[k] if k < len(F) else 0.0
    assert cvar(F, alpha) == pytest.approx((sum(ordered[:k]) + partial) / mass, abs=1e-9)


def test_every_pattern_of_failures_keeps_to_its_range() -> None:
    """The order of seeds does not matter, so a pattern of up to 50 seeds is how many of
    them fail.
    """
    for seeds in range(1, 51):
        for failed in range(seeds + 1):
            F = np.repeat([1.0, 0.0], [failed, seeds - failed])
            for tenths in range(1, 11):
                found = cvar(F, tenths / 10)
                assert 0.0 <= found <= 1.0
                assert found == pytest.approx(min(1.0, 10 * failed / (tenths * seeds)), abs=1e-12)
                assert cvar_weights(F, tenths / 10).min() >= 0.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50).map(np.array), alphas)
@settings(max_examples=300)
def test_cvar_lies_between_eta_and_the_largest_loss(F: np.ndarray, alpha: float) -> None:
    found = cvar(F, alpha)
    rows = cvars(np.stack([F, F[::-1], np.zeros_like(F)])[:, None], alpha)
    assert rows[:, 0] == pytest.approx([found, found, 0.0], rel=1e-9, abs=1e-6)
    assert max(F.min(), tail_threshold(F, alpha)) <= found <= F.max()
    assert found == pytest.approx(
        min(rockafellar_uryasev(F, alpha, eta) for eta in F.tolist()), rel=1e-9, abs=1e-6
    )


@given(st.permutations(range(10)), alphas)
@settings(max_examples=50)
def test_weights_are_the_gradient(order: list[int], alpha: float) -> None:
    F, h = np.array(order) / 10, 1e-6
    numeric = [
        (cvar(F + h * unit, alpha) - cvar(F - h * unit, alpha)) / (2 * h) for unit in np.eye(10)
    ]
    np.testing.assert_allclose(cvar_weights(F, alpha), numeric, atol=1e-6)
    assert cvar_weights(F, alpha).sum() == pytest.approx(1.0)


def test_equal_losses_weigh_alike() -> None:
    np.testing.assert_allclose(
        cvar_weights(np.array([0.5, 0.9, 0.5, 0.1]), 0.5), [0.25, 0.5, 0.25, 0.0]
    )
    np.testing.assert_allclose(cvar_weights(np.zeros(5), 0.2), 0.2)
    assert cvar(np.array([0.1, 0.5, 0.3]), 1.0) == pytest.approx(0.3)
    assert cvar(np.array([0.1, 0.5, 0.3]), 1 / 3) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="tail mass"):
        cvar(np.zeros(3), 0.0)


def test_the_noise_floor_is_reached_by_equal_seeds_and_exceeded_by_different_ones() -> None:
    rng = np.random.default_rng(0)
    alike = (rng.random((60, 20)) < rng.beta(1, 3, 60)[:, None]).astype(float)
    floor = cvar_noise_floor(alike, 0.2, 200, 1)
    assert floor > alike.mean() + 0.02
    assert abs(cvar_failure(1 - alike, 0.2) - floor) < 0.04
    different = (rng.random((60, 20)) < np.linspace(0, 0.6, 20)).astype(float)
    assert cvar_failure(1 - different, 0.2) > cvar_noise_floor(different, 0.2, 200, 1) + 0.1
