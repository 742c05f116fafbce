"""Whether seeds differ: exact in a small case, at its level without and powerful with a cause."""

from itertools import permutations

import numpy as np
import pytest

from r2v_dist.stats.cvar import cvar, cvar_noise_floor
from r2v_dist.stats.seed_difference import LEVEL, permuted_rates, seed_difference, tail_means

ALPHA = 0.2


def world(rng: np.random.Generator, harshness_Z: np.ndarray, tasks: int = 16) -> np.ndarray:
    """Losses of tasks of very different difficulty under seeds of given harshness."""
    difficulty_T = rng.uniform(0.05, 0.95, tasks)
    chance_TZ = np.clip(difficulty_T[:, None] + harshness_Z[None, :], 0.0, 1.0)
    return (rng.random(chance_TZ.shape) < chance_TZ).astype(np.float64)


def test_the_p_value_is_that_of_all_permutations() -> None:
    losses_TZ = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    observed = losses_TZ.mean(axis=0).var()
    dealt = [list(permutations(row)) for row in losses_TZ.tolist()]
    every = [np.mean([a, b, c], axis=0) for a in dealt[0] for b in dealt[1] for c in dealt[2]]
    exact = np.mean([rates_Z.var() >= observed - 1e-12 for rates_Z in every])
    found = seed_difference("slm_only", losses_TZ, 0.5, 0, permutations=20_000)
    assert 0.1 < exact < 0.9
    assert found.p_value == pytest.approx(exact, abs=0.012)
    floor = np.mean([cvar(rates_Z, 0.5) for rates_Z in every])
    assert found.cvar_noise_floor == pytest.approx(floor, abs=0.005)
    assert found.cvar_failure == pytest.approx(cvar(losses_TZ.mean(axis=0), 0.5))


def test_it_rejects_at_its_level_where_seeds_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    worlds = [world(rng, np.zeros(10)) for _ in range(600)]
    found = [seed_difference("x", losses_TZ, ALPHA, i, 199) for i, losses_TZ in enumerate(worlds)]
    p_W = np.array([one.p_value for one in found])
    for level in (0.05, 0.1, 0.2, 0.5):
        assert abs((p_W <= level).mean() - level) < 3 * np.sqrt(level * (1 - level) / 600)


def test_it_rejects_where_one_seed_is_harsh_and_the_cvar_leaves_its_floor() -> None:
    rng = np.random.default_rng(1)
    harshness_Z = np.array([0.6, *[0.0] * 9])
    found = [seed_difference("x", world(rng, harshness_Z, 40), ALPHA, i, 999) for i in range(40)]
    assert np.mean([one.differ for one in found]) > 0.9
    assert np.mean([one.cvar_failure > one.cvar_noise_floor_upper_95 for one in found]) > 0.9


def test_the_floor_is_that_of_the_measures_and_lies_above_the_mean() -> None:
    losses_TZ = world(np.random.default_rng(2), np.zeros(10))
    found = seed_difference("x", losses_TZ, ALPHA, 0, 4_000)
    expected = cvar_noise_floor(losses_TZ, ALPHA, 2_000, 1)
    assert found.cvar_noise_floor == pytest.approx(expected, abs=0.005)
    assert found.cvar_noise_floor > losses_TZ.mean() + 0.05


def test_tasks_that_end_alike_keep_their_share() -> None:
    losses_TZ = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    rates_BZ = permuted_rates(losses_TZ, 50, 0)
    assert np.sort(rates_BZ, axis=1) == pytest.approx(np.tile([1 / 3, 1 / 3, 2 / 3], (50, 1)))
    assert tail_means(rates_BZ, 1 / 3) == pytest.approx(np.full(50, 2 / 3))


def test_seeds_that_are_all_alike_have_p_one_and_a_clear_difference_has_the_least() -> None:
    alike = seed_difference("x", np.zeros((5, 4)), ALPHA, 0, 199)
    assert (alike.p_value, alike.variance, alike.differ, alike.at_floor) == (1.0, 0.0, False, False)
    clear = seed_difference("x", np.tile([1.0, 0.0, 0.0, 0.0], (30, 1)), ALPHA, 0, 199)
    assert clear.p_value == 1 / 200 < LEVEL
    assert clear.at_floor
