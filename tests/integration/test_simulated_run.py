"""A simulated run as a user starts it; and its claims, on exact values: near the optimum, and worse in the tail without CVaR."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from learners.simulated_run import simulate
from r2v_dist.simulated_config import SimulatedConfig, load_simulated

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "simulated.yaml"
SMALL = ["routers=[r2v]", "train_tasks=20", "validation_tasks=30", "test_tasks=10", "router.risk_steps=20", "router.policy_steps=40"]


def configured(*overrides: str) -> SimulatedConfig:
    config = load_simulated(CONFIG, list(overrides))
    assert config is not None
    return config


def test_one_command_prints_the_table_and_writes_the_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "r2v_dist.cli", "run", str(CONFIG), *SMALL, f"run_dir={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    printed = result.stdout.splitlines()
    assert printed[0].startswith("SIMULATED")
    assert {"cost", "failure", "CVaR"} <= set(printed[1].split())
    assert {"slm_only", "teacher_only", "entropy", "r2v", "r2v_bayes"} <= {line.split()[0] for line in printed[2:]}
    assert any(line.startswith("optimum:") for line in printed)
    page = (tmp_path / "report" / "index.html").read_text()
    assert printed[-1] == f"Report: {tmp_path / 'report' / 'index.html'}"
    assert "<b>Simulated.</b>" in page
    assert page.count("<figure>") == page.count("<svg") == 4
    assert not re.search(r"<script|<link|<img|src=", page)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_near_the_optimum_with_cvar_and_worse_in_the_tail_without(tmp_path: Path, seed: int) -> None:
    config = configured(f"seed={seed}", f"run_dir={tmp_path}", "routers=[r2v, r2v_no_cvar]")
    report = simulate(config)
    r2v, without = report.row("r2v"), report.row("r2v_no_cvar")
    assert r2v.cvar <= config.router.epsilon + 0.005
    assert r2v.cost <= 1.02 * report.optimum
    assert without.cvar > config.router.epsilon + 0.05
    assert report.cvar_gain is not None
    assert report.cvar_gain[1] > 0
