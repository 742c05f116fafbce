"""A simulated run as a user starts it; and its claims, on exact values: near the optimum, and worse
in the tail without CVaR.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from r2v_dist.config.simulated import SLM_PRICE, SimulatedConfig, load_simulated
from r2v_dist.evaluation.handover import LatchedEpisodes, cheapest_mix, sweep
from r2v_dist.labels.table import LabelTable
from r2v_dist.pipeline.simulated.judge import cvar_saving, labels_path
from r2v_dist.pipeline.simulated.run import draw, simulate
from r2v_dist.router.calibration import Calibrator
from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import RouterModel, predict_states
from r2v_dist.router.scaler import Scaler
from tests.runs import ROOT

CONFIG = ROOT / "configs" / "simulated.yaml"
SMALL = [
    "routers=[r2v]",
    "train_tasks=20",
    "validation_tasks=30",
    "test_tasks=10",
    "router.risk_steps=20",
    "router.policy_steps=40",
]


def configured(*overrides: str) -> SimulatedConfig:
    config = load_simulated(CONFIG, list(overrides))
    assert config is not None
    return config


def test_one_command_prints_the_table_and_writes_the_report(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "r2v_dist.cli",
        "run",
        str(CONFIG),
        *SMALL,
        f"run_dir={tmp_path}",
    ]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    printed = result.stdout.splitlines()
    assert printed[0].startswith("SIMULATED")
    assert {"cost", "failure", "CVaR"} <= set(printed[1].split())
    assert {"slm_only", "teacher_only", "entropy", "r2v", "r2v_bayes"} <= {
        line.split()[0] for line in printed[2:]
    }
    assert any(line.startswith("optimum:") for line in printed)
    page = (tmp_path / "report" / "index.html").read_text()
    assert printed[-1] == f"Report: {tmp_path / 'report' / 'index.html'}"
    assert "<b>Simulated.</b>" in page
    assert page.count("<figure") == page.count("<svg") == 4
    assert not re.search(r"<script|<link|<img|src=", page)


def scored_by(**weights: float) -> RouterModel:
    """A router with a single output that is linear in a few features."""
    weight_F = np.array([weights.get(name, 0.0) for name in FEATURE_NAMES])
    count = len(FEATURE_NAMES)
    heads = {"rho": Mlp(((weight_F[None], np.zeros(1)),))}
    return RouterModel(
        "linear",
        "joint",
        Scaler.unlimited(np.zeros(count), np.ones(count)),
        heads,
        {"rho": Calibrator()},
    )


def cost_alone(config: SimulatedConfig, model: RouterModel) -> float:
    """The least cost of a router at CVaR epsilon on the test episodes, over every threshold."""
    labels = LabelTable.load(labels_path(config, "test"))
    score_N = predict_states(model, labels.features_NF).score
    points = sweep(LatchedEpisodes.of(labels), score_N, config.router.alpha, SLM_PRICE)
    mix = cheapest_mix(points, config.router.epsilon)
    assert mix is not None
    return mix.cost


def test_training_with_and_without_cvar_is_compared_at_equal_cvar(tmp_path: Path) -> None:
    small = ("train_tasks=5", "validation_tasks=5", "test_tasks=60", "seeds=10")
    config = configured(f"run_dir={tmp_path}", *small)
    draw(config)
    good = scored_by(first_token_entropy=3.0, error_observed=3.0, first_token_agreement=-3.0)
    poor = scored_by(first_token_entropy=3.0)
    assert cvar_saving(config, {"r2v": good, "r2v_no_cvar": good}) == (0.0, 0.0, 0.0)
    assert cvar_saving(config, {"r2v": good}) is None
    for ours, theirs, sign in ((good, poor, 1), (poor, good, -1)):
        found = cvar_saving(config, {"r2v": ours, "r2v_no_cvar": theirs})
        assert found is not None
        saving, low, high = found
        assert saving == pytest.approx(
            cost_alone(config, theirs) - cost_alone(config, ours), rel=0.05
        )
        assert low <= saving <= high
        assert low * sign > 0
        assert high * sign > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_near_the_optimum_with_cvar_and_no_cheaper_at_equal_cvar_without(
    tmp_path: Path, seed: int
) -> None:
    config = configured(f"seed={seed}", f"run_dir={tmp_path}", "routers=[r2v, r2v_no_cvar]")
    report = simulate(config)
    r2v, without = report.row("r2v"), report.row("r2v_no_cvar")
    assert r2v.cvar <= config.router.epsilon + 0.005
    assert r2v.cost <= 1.02 * report.optimum
    assert without.cvar <= config.router.epsilon + 0.005
    assert report.optimum < report.mean_optimum
    assert report.cvar_saving is not None
    assert report.cvar_saving[2] > 0
