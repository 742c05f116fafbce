"""Quality of a predicted risk, and the calibration error that no forecaster can avoid."""

import numpy as np
import pytest

from r2v_dist.evaluation.risk_quality import (
    AloneSteps,
    episode_quality,
    luck_ece,
    risk_quality,
    step_qualities,
)
from r2v_dist.stats.calibration_error import auroc, brier_parts, ece, perfect_ece


def steps(failed_N: np.ndarray, episode_N: np.ndarray) -> AloneSteps:
    count = len(failed_N)
    return AloneSteps(
        np.zeros((count, 1)), np.zeros((count, 1)), failed_N, np.zeros(count, np.int64), episode_N
    )


def test_measures_are_those_of_calibration() -> None:
    rng = np.random.default_rng(0)
    episode_N = np.repeat(np.arange(60), 5)
    rho_N = rng.random(300)
    failed_N = (rng.random(60) < 0.4).astype(np.float64)[episode_N]
    found = risk_quality("r2v", 2, rho_N, steps(failed_N, episode_N), 0)
    assert found is not None
    n_N = np.ones(300)
    assert (found.name, found.training_seed, found.steps, found.episodes) == ("r2v", 2, 300, 60)
    assert found.brier == pytest.approx(np.mean((rho_N - failed_N) ** 2))
    assert found.constant_brier == pytest.approx(failed_N.mean() * (1 - failed_N.mean()))
    assert found.ece15 == pytest.approx(ece(rho_N, failed_N, n_N))
    assert found.auroc == pytest.approx(auroc(rho_N, failed_N, n_N))
    assert found.resolution == pytest.approx(brier_parts(rho_N, failed_N, n_N).resolution)
    assert found.perfect_ece < found.perfect_ece_shared


def test_a_constant_predicts_no_risk_and_one_outcome_has_no_auroc() -> None:
    episode_N = np.arange(20)
    assert (
        risk_quality("r2v_no_brier", 0, np.full(20, 0.5), steps(np.zeros(20), episode_N), 0) is None
    )
    found = risk_quality("r2v", 0, np.linspace(0, 1, 20), steps(np.zeros(20), episode_N), 0)
    assert found is not None
    assert found.auroc is None


def test_independent_luck_is_the_perfect_ece() -> None:
    rho_N = np.random.default_rng(1).random(400)
    ours, theirs = luck_ece(rho_N, np.arange(400), 0), perfect_ece(rho_N, np.ones(400), 1)
    assert ours.mean == pytest.approx(theirs.mean, rel=0.05)
    assert ours.upper_95 == pytest.approx(theirs.upper_95, rel=0.08)


def test_shared_luck_in_closed_form() -> None:
    """One episode, every step at 1/2: it fails or it does not, and the error is 1/2 either way.
    Two: 0 or 1/2, equally often.
    """
    assert luck_ece(np.full(30, 0.5), np.zeros(30, np.int64), 0).mean == pytest.approx(0.5)
    two = luck_ece(np.full(30, 0.5), np.repeat([0, 1], 15), 0)
    assert two.mean == pytest.approx(0.25, abs=0.06)
    assert two.upper_95 == pytest.approx(0.5)


def test_every_episode_weighs_alike_as_if_its_steps_were_one_observation() -> None:
    """Episodes of 1, 2 and 4 steps: repeat each step until all episodes have four."""
    episode_N = np.repeat([0, 1, 2, 3], [1, 2, 4, 4])
    rho_N = np.random.default_rng(0).random(11)
    failed_N = np.array([1.0, 0.0, 1.0, 0.0])[episode_N]
    found = episode_quality(rho_N, failed_N, episode_N)
    repeats_N = np.array([4, 2, 1, 1])[episode_N]
    rho_M, failed_M, n_M = np.repeat(rho_N, repeats_N), np.repeat(failed_N, repeats_N), np.ones(16)
    assert found.brier == pytest.approx(np.mean((rho_M - failed_M) ** 2))
    assert found.constant_brier == pytest.approx(0.25)
    assert found.ece15 == pytest.approx(ece(rho_M, failed_M, n_M))
    assert found.auroc == pytest.approx(auroc(rho_M, failed_M, n_M))
    assert episode_quality(rho_N, np.ones(11), episode_N).auroc is None


def test_a_risk_that_knows_the_step_alone_tells_nothing_at_any_step() -> None:
    """Episodes that fail are long: the step number has a high AUROC pooled, and 1/2 at
    each step.
    """
    lengths_E = np.repeat([3, 9], 20)
    episode_N = np.repeat(np.arange(40), lengths_E)
    t_N = np.concatenate([np.arange(length) for length in lengths_E])
    failed_N = (lengths_E == 9).astype(np.float64)[episode_N]
    rho_N = 0.1 + t_N / 10
    batch = AloneSteps(np.zeros((240, 1)), np.zeros((240, 1)), failed_N, t_N, episode_N)
    found = risk_quality("r2v", 0, rho_N, batch, 0)
    assert found is not None
    pairs = [(a > b) + (a == b) / 2 for a in t_N[failed_N == 1] for b in t_N[failed_N == 0]]
    assert found.step_number_auroc == pytest.approx(np.mean(pairs))
    assert found.auroc == pytest.approx(found.step_number_auroc)
    assert found.auroc > 0.8
    assert [one.t for one in found.by_step] == list(range(9))
    assert [one.auroc for one in found.by_step] == [0.5] * 3 + [None] * 6
    assert found.by_step[0].constant_brier == 0.25
    assert found.by_step[0].brier == pytest.approx((0.9**2 + 0.1**2) / 2)


def test_steps_are_measured_apart() -> None:
    rng = np.random.default_rng(1)
    t_N = rng.integers(0, 3, 200)
    rho_N = rng.random(200)
    failed_N = (rng.random(200) < rho_N).astype(np.float64)
    for one in step_qualities(rho_N, failed_N, t_N):
        own = t_N == one.t
        assert (one.steps, one.mean_risk) == (own.sum(), pytest.approx(rho_N[own].mean()))
        assert one.failure_rate == failed_N[own].mean()
        assert one.auroc == pytest.approx(auroc(rho_N[own], failed_N[own], np.ones(own.sum())))
