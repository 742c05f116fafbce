"""What a logistic baseline learns from: states where no teacher acted, every episode alike."""

from typing import Any

import numpy as np
import pytest

from r2v_dist.errors import RuntimeFailure
from r2v_dist.labels.table import LabelTable
from r2v_dist.pipeline.steps.regressions import THREE, fit, outcomes
from r2v_dist.router.features import FEATURE_NAMES


def labels(episodes: int, seed: int, **changed: list[Any]) -> LabelTable:
    """Episodes of one to five steps, two a task, every third one led by a router; the SLM fails
    where the second feature is large, and the teacher differs where the third is.
    """
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(episodes), rng.integers(1, 6, episodes))
    led = episode % 3 == 2
    features_NF = rng.normal(size=(len(episode), len(FEATURE_NAMES)))
    failed_E = rng.random(episodes) < 0.4
    features_NF[:, 1] += 2.0 * failed_E[episode]
    differs = rng.random(len(episode)) < 0.3
    features_NF[:, 2] += 2.0 * differs
    known = rng.random(len(episode)) < 0.8
    zeros = [0] * len(episode)
    columns: dict[str, Any] = {
        **dict.fromkeys(("n_s", "s_s", "n_t1", "s_t1", "n_tinf", "s_tinf"), zeros),
        **dict.fromkeys(("n_r", "s_rs", "s_rt", "m_rs", "m_rt", "m_tinf", "z", "t"), zeros),
        "task": [f"task{one // 2}" for one in episode],
        "split": ["train"] * len(episode),
        "prefix": range(len(episode)),
        "source": ["random" if one else "slm_only" for one in led],
        "features": features_NF,
        "differs": [bool(d) if k else None for d, k in zip(differs, known, strict=True)],
        "own_success": [
            None if one else not failed for one, failed in zip(led, failed_E[episode], strict=True)
        ],
        "episode": [f"e{one}" for one in episode],
        "weight": [1.0] * len(episode),
    }
    return LabelTable.of_columns(columns | changed)


@pytest.mark.parametrize("answers", [False, True])
def test_only_states_of_the_slm_alone_teach_and_every_episode_weighs_the_same(
    answers: bool,
) -> None:
    table = labels(60, 0)
    learned = outcomes(table, answers)
    own_N = table.source == "slm_only"
    kept = table.where(own_N & np.isfinite(table.dissent) if answers else own_N)
    np.testing.assert_array_equal(learned.features_NF, kept.features_NF)
    expected_N = kept.dissent if answers else 1.0 - kept.own_success
    np.testing.assert_array_equal(learned.failed_N, expected_N)
    for episode in np.unique(kept.episode):
        assert learned.weight_N[kept.episode == episode].sum() == pytest.approx(1.0)


def leading(name: str) -> str:
    """The feature that a baseline gives the largest weight."""
    [(weight_1F, _)] = fit(name, labels(300, 0), labels(200, 1), 0).heads["rho"].layers
    return FEATURE_NAMES[int(np.abs(weight_1F[0]).argmax())]


def test_each_baseline_learns_its_own_target() -> None:
    assert leading("logistic") == FEATURE_NAMES[1]
    assert leading("logistic_disagreement") == FEATURE_NAMES[2]
    [(weight_1F, _)] = fit("logistic_three", labels(99, 0), labels(99, 1), 0).heads["rho"].layers
    used = [name for name, w in zip(FEATURE_NAMES, weight_1F[0], strict=True) if w != 0]
    assert set(used) == set(THREE)


def test_labels_without_an_answer_of_the_teacher_are_refused() -> None:
    table = labels(30, 0)
    without = labels(30, 0, differs=[None] * len(table))
    with pytest.raises(RuntimeFailure, match="logistic_disagreement: the labels of the train"):
        fit("logistic_disagreement", without, table, 0)
    fit("logistic", without, table, 0)
