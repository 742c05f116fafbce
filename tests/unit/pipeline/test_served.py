"""What a router learns from served traffic: labels weighted by the probability that the SLM was let
alone, and which stages a log makes again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.off_policy import Traffic, traffic
from envs.simulated.world import SYMPTOM_OF_Z
from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
from r2v_dist.evaluation.off_policy import LoggedConversation
from r2v_dist.pipeline.stages import stages
from r2v_dist.pipeline.steps.served import labels_of, outcomes
from r2v_dist.router.exploration import Design
from r2v_dist.router.features import FEATURE_NAMES, FEATURE_VERSION
from r2v_dist.router.logistic import train_logistic
from r2v_dist.serving.log import SCHEMA
from tests.runs import ROOT

CONFIG = ROOT / "configs" / "textworld_demo.yaml"
NOBODY = 2.0
"""A threshold that no score reaches: the SLM acts alone."""


@pytest.fixture(scope="module")
def played() -> Traffic:
    """Traffic whose design lets the SLM alone in a part of the conversations."""
    usual = traffic(rate=0.5, seed=5)
    exploration = replace(usual.exploration, thresholds=(usual.now, NOBODY))
    design = Design.of([(usual.now, 1.0)]).explored(exploration)
    return replace(usual, exploration=exploration, design=design)


def logit(p_N: np.ndarray) -> np.ndarray:
    p_N = np.clip(p_N, 1e-3, 1 - 1e-3)
    logits_N: np.ndarray = np.log(p_N / (1 - p_N))
    return logits_N


@pytest.fixture(scope="module")
def log(played: Traffic) -> list[LoggedConversation]:
    """With features of which one is the logit of the score."""
    rng = np.random.default_rng(0)
    log = []
    for one in played.log(0, 3000, rng):
        features_TF = np.zeros((len(one.actors), len(FEATURE_NAMES)))
        features_TF[:, 0] = logit(np.array(one.scores))
        log.append(replace(one, features_TF=features_TF))
    return log


def test_weighted_labels_are_those_of_the_slm_alone(
    played: Traffic, log: list[LoggedConversation]
) -> None:
    labels = labels_of(log)
    assert len(labels) == sum(len(one.actors) for one in log)
    alone_N = np.isfinite(labels.own_success)
    first_N = alone_N & (labels.t == 0)
    failed_N = 1 - labels.own_success[first_N]
    weighted = float((labels.weight[first_N] * failed_N).sum()) / len(log)
    slm_only = played.exact.evaluate(np.zeros((1, *played.exact.shape)), latched=False)
    truth = float(slm_only.failure_BV[0][list(SYMPTOM_OF_Z)].mean())
    assert weighted == pytest.approx(truth, abs=0.03)
    assert failed_N.mean() < truth - 0.05  # those that were let alone were the easy ones


def test_a_step_of_the_teacher_ends_what_came_before_it(log: list[LoggedConversation]) -> None:
    helped = next(one for one in log if "slm" in one.actors and one.actors[-1] == "teacher")
    mixed = next(one for one in log if one.actors[-2:] == ("teacher", "slm"))
    assert not np.isfinite(labels_of([helped]).own_success).any()
    labels = labels_of([mixed])
    assert np.isfinite(labels.own_success).tolist() == [False] * (len(mixed.actors) - 1) + [True]
    assert labels.weight[-1] == pytest.approx(1 / mixed.propensities[-1])


def test_a_regression_learns_the_risk(log: list[LoggedConversation]) -> None:
    learned, held_out = outcomes(labels_of(log), seed=0)
    assert not set(learned.task_N) & set(held_out.task_N)
    model = train_logistic(learned, held_out, 0, FEATURE_NAMES, FEATURE_VERSION, kind="served")
    scores_N = np.array([0.05, 0.2, 0.5])
    features_NF = np.zeros((3, len(FEATURE_NAMES)))
    features_NF[:, 0] = logit(scores_N)  # scores are the exact risk
    assert model.predict(features_NF).rho == pytest.approx(scores_N, abs=0.08)


def test_too_little_is_told(log: list[LoggedConversation]) -> None:
    with pytest.raises(UsageError, match=r"router.served: .* draws"):
        outcomes(labels_of(log[:40]), seed=0)
    with pytest.raises(UsageError, match=r"router.served: 0 draws"):
        outcomes(labels_of([]), seed=0)


def keyed_by(*overrides: str) -> dict[str, str]:
    config = load_config(CONFIG, [*overrides])
    return {one.name: str((one.content(config), one.needs)) for one in stages(config)}


def test_a_log_trains_its_router_and_no_other(tmp_path: Path) -> None:
    routers = "evaluate.routers=[r2v, logistic"
    before = keyed_by(f"{routers}]")
    given = (f"{routers}, logistic_served]", f"router.served={tmp_path}")
    after = keyed_by(*given)
    assert after.keys() - before.keys() == {"served"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"validate", "calibrate", "evaluate"}
    (tmp_path / "1-1.arrows").write_bytes(SCHEMA.serialize())
    longer = keyed_by(*given)
    assert {name for name in after if after[name] != longer[name]} == {"served"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["router.served=/tmp/log"], "add logistic_served to evaluate.routers"),
        (["evaluate.routers=[logistic_served]"], "set router.served to its folder"),
    ],
)
def test_a_log_and_its_router_belong_together(overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_config(CONFIG, overrides)
