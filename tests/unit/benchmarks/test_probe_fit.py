"""The probe and its intervals in a world whose truth is known."""

import numpy as np
import pytest

from benchmarks.probe_fit import Array, Labelled, auroc_estimates, fit
from r2v_dist.router.calibration import sigmoid

WIDE = 48
"""More numbers than a fold of the training set has tasks."""


def world(seed: int, tasks: int, told: float) -> Labelled:
    """Three states a task. Feature 0 tells one half of the risk; `told` of the other half lies
    along a hidden direction of a wide vector.
    """
    direction_D = np.random.default_rng(0).normal(size=WIDE)
    direction_D /= np.linalg.norm(direction_D)
    rng = np.random.default_rng(seed)
    task_N = np.repeat(np.arange(tasks), 3)
    seen_N, latent_N = rng.normal(size=(2, len(task_N)))
    features_NF = np.column_stack([seen_N, rng.normal(size=(len(task_N), 3))])
    hidden_ND = rng.normal(size=(len(task_N), WIDE)) * 0.5
    hidden_ND += 3.0 * told * latent_N[:, None] * direction_D
    n_N = rng.integers(1, 5, len(task_N)).astype(np.float64)
    failures_N = rng.binomial(n_N.astype(int), sigmoid(1.5 * (seen_N + latent_N)))
    return Labelled((features_NF, hidden_ND), failures_N.astype(np.float64), n_N, task_N)


def scores(train: Labelled, validation: Labelled) -> dict[str, Array]:
    blocks = {"features": (0,), "hidden": (1,), "both": (0, 1)}
    return {
        name: fit(train.of_blocks(*places), 0)(validation.of_blocks(*places))
        for name, places in blocks.items()
    }


def test_a_vector_that_knows_the_other_half_of_the_risk_adds_to_the_features() -> None:
    validation = world(2, 60, told=1.0)
    estimates = auroc_estimates(
        scores(world(1, 40, told=1.0), validation), validation, "features", 300, 0
    )
    own, beside = estimates["both"]
    assert own.low < own.value < own.high
    assert beside.low > 0.0
    assert estimates["features"][1].value == 0.0
    assert estimates["hidden"][0].low > 0.5


def test_a_vector_that_knows_nothing_changes_next_to_nothing() -> None:
    validation = world(2, 60, told=0.0)
    estimates = auroc_estimates(
        scores(world(1, 40, told=0.0), validation), validation, "features", 300, 0
    )
    _, beside = estimates["both"]
    assert beside.low <= 0.0
    assert abs(beside.value) < 0.05
    hidden, _ = estimates["hidden"]
    assert hidden.low < 0.5 < hidden.high


def test_intervals_hold_the_true_auroc_about_as_often_as_they_say() -> None:
    """The score is the exact risk, so the truth is its AUROC over very many tasks."""

    def with_exact_score(seed: int, tasks: int) -> tuple[Array, Labelled]:
        rng = np.random.default_rng(seed)
        risk_T = rng.random(tasks)
        task_N = np.repeat(np.arange(tasks), 4)
        failures_N = (rng.random(len(task_N)) < risk_T[task_N]).astype(np.float64)
        states = Labelled((), failures_N, np.ones(len(task_N)), task_N)
        return risk_T[task_N], states

    exact_N, many = with_exact_score(0, 20_000)
    truth = auroc_estimates({"exact": exact_N}, many, "exact", 1, 0)["exact"][0].value
    held = 0
    for seed in range(1, 101):
        score_N, states = with_exact_score(seed, 40)
        own, _ = auroc_estimates({"exact": score_N}, states, "exact", 200, seed)["exact"]
        held += own.low <= truth <= own.high
    assert 85 <= held <= 99


def test_tasks_not_states_are_resampled() -> None:
    """Copies of a state in its own task add nothing to what is known."""
    validation = world(3, 20, told=0.0)
    score_N = validation.blocks[0][:, 0]
    thrice = Labelled(
        (),
        np.tile(validation.failures_N, 3),
        np.tile(validation.n_N, 3),
        np.tile(validation.task_N, 3),
    )
    once, _ = auroc_estimates({"s": score_N}, validation, "s", 200, 0)["s"]
    copied, _ = auroc_estimates({"s": np.tile(score_N, 3)}, thrice, "s", 200, 0)["s"]
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_a_probe_needs_two_tasks() -> None:
    with pytest.raises(ValueError, match="two training tasks"):
        fit(world(1, 1, told=1.0), 0)
