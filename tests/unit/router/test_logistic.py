"""The logistic fit against a plain Newton iteration, and against a world whose risk is known."""

from pathlib import Path

import numpy as np
import pytest

from r2v_dist.router.calibration import Array, logistic_fit, sigmoid
from r2v_dist.router.logistic import Outcomes, train_logistic
from r2v_dist.router.model import RouterModel
from r2v_dist.stats.calibration_error import auroc, brier_parts

NAMES = ("cue", "noise", "still", "half")
WEIGHTS = np.array([1.5, 0.0, 0.0, -0.8])


def drawn(episodes: int, seed: int) -> tuple[Outcomes, Array]:
    """Episodes of 1 to 6 steps, ten a task; every step of one fails at its own known risk."""
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(episodes), rng.integers(1, 7, episodes))
    features_NF = rng.normal([0.3, 5.0, 2.0, -1.0], [1.0, 3.0, 0.0, 1.0], (len(episode), 4))
    risk_N = sigmoid(features_NF @ WEIGHTS - 0.7)
    failed_N = (rng.random(len(episode)) < risk_N).astype(np.float64)
    weight_N = 1.0 / np.bincount(episode)[episode]
    return Outcomes(features_NF, failed_N, (episode // 10).astype(str), weight_N), risk_N


def newton(x_ND: Array, y_N: Array, weight_N: Array, strength: float) -> Array:
    """Newton's method without any safeguard, the Hessian inverted outright."""
    w_D = np.zeros(x_ND.shape[1])
    for _ in range(60):
        p_N = 1.0 / (1.0 + np.exp(-(x_ND @ w_D)))
        gradient_D = x_ND.T @ (weight_N * (p_N - y_N)) + strength * w_D
        curvature_N = weight_N * p_N * (1.0 - p_N)
        hessian_DD = np.einsum("nd,n,ne->de", x_ND, curvature_N, x_ND)
        w_D = w_D - np.linalg.inv(hessian_DD + strength * np.eye(len(w_D))) @ gradient_D
    return w_D


@pytest.mark.parametrize("strength", [1.0, 10.0, 1000.0])
def test_the_fit_is_the_minimum_that_newton_finds(strength: float) -> None:
    outcomes, _ = drawn(120, 0)
    x_ND = np.column_stack([outcomes.features_NF, np.ones(len(outcomes.failed_N))])
    failures_N = outcomes.failed_N * outcomes.weight_N
    found_D = logistic_fit(x_ND, failures_N, outcomes.weight_N, np.zeros(5), strength)
    expected_D = newton(x_ND, outcomes.failed_N, outcomes.weight_N, strength)
    np.testing.assert_allclose(found_D, expected_D, atol=1e-7)


def test_the_exported_head_is_that_fit_on_standardised_features() -> None:
    train, _ = drawn(120, 0)
    model = train_logistic(train, drawn(80, 1)[0], 0, NAMES, "1")
    mean_F = np.average(train.features_NF, axis=0, weights=train.weight_N)
    std_F = train.features_NF.std(axis=0)
    std_F[2] = 1.0
    scaled_NF = (train.features_NF - mean_F) / std_F
    x_ND = np.column_stack([scaled_NF, np.ones(len(scaled_NF))])
    [(weight_1F, bias_1)] = model.heads["rho"].layers
    own_D = np.concatenate([weight_1F[0], bias_1])
    fits = [newton(x_ND, train.failed_N, train.weight_N, s) for s in (1.0, 10.0, 100.0, 1000.0)]
    assert min(np.abs(own_D - fit_D).max() for fit_D in fits) < 1e-7
    np.testing.assert_array_equal(model.scaler.low_F, train.features_NF.min(axis=0))
    np.testing.assert_array_equal(model.scaler.high_F, train.features_NF.max(axis=0))


def test_it_finds_the_risk_of_a_known_world(tmp_path: Path) -> None:
    train, _ = drawn(2000, 0)
    validation, _ = drawn(1000, 1)
    test, risk_N = drawn(1000, 2)
    model = train_logistic(train, validation, 0, NAMES, "1")
    score_N = model.predict(test.features_NF).score
    assert np.abs(score_N - risk_N).mean() < 0.04
    n_N = np.ones(len(score_N))
    assert auroc(score_N, test.failed_N, n_N) > auroc(risk_N, test.failed_N, n_N) - 0.01
    assert brier_parts(score_N, test.failed_N, n_N).reliability < 0.01
    model.save(tmp_path)
    again = RouterModel.load(tmp_path, NAMES, "1")
    np.testing.assert_array_equal(again.predict(test.features_NF).score, score_N)


def test_only_the_features_that_it_may_use_have_a_weight() -> None:
    train, _ = drawn(200, 0)
    model = train_logistic(train, drawn(100, 1)[0], 0, NAMES, "1", uses=("half", "noise"))
    [(weight_1F, _)] = model.heads["rho"].layers
    assert (weight_1F[0] != 0).tolist() == [False, True, False, True]


def test_one_task_is_too_few() -> None:
    one, _ = drawn(9, 0)
    with pytest.raises(ValueError, match="two training tasks"):
        train_logistic(one, one, 0, NAMES, "1")
