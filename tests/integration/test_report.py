"""The report says what the rollouts say, for people, for scripts and on the terminal."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.runs import ROOT

ROW_KEYS = {
    *("name", "threshold", "selected", "split", "training_seed", "success_rate", "success_ci", "llm_call_rate", "teacher_calls"),
    *("teacher_call_fraction", "worst_seed_success", "cvar_failure", "brier", "ece15", "auroc", "episodes", "tasks", "seeds"),
}


def cli(*arguments: str) -> str:
    command = [sys.executable, "-m", "r2v_dist.cli", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def summary(simulated_run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(cli("report", str(simulated_run), "--json"))
    return loaded


@pytest.fixture(scope="module")
def steps(simulated_run: Path) -> pd.DataFrame:
    frames = map(pd.read_feather, sorted((simulated_run / "rollouts" / "evaluate").glob("*.arrow")))
    return pd.concat(frames).query("z.notna()")


def test_the_summary_has_the_documented_shape(summary: dict[str, Any]) -> None:
    assert {"env", "simulated", "teacher", "config_hash", "versions", "wall_s", "stages", "routers", "certificate"} <= set(summary)
    assert summary["simulated"] is True
    assert summary["teacher"] == {"backend": "expert", "model": None, "privileged": True}
    assert summary["certificate"] is None
    documented = (ROOT / "docs" / "report.md").read_text()
    for row in summary["routers"]:
        assert set(row) == ROW_KEYS
        assert all(f"`{key}`" in documented for key in ROW_KEYS)
    assert [r["name"] for r in summary["routers"]] == ["slm_only", "teacher_only"] + ["random"] * 4


def test_every_number_follows_from_the_rollouts(summary: dict[str, Any], steps: pd.DataFrame) -> None:
    for row in summary["routers"]:
        own = steps[steps.router == row["name"]]
        if row["threshold"] is not None:
            own = own[own.threshold == row["threshold"]]
        episodes = own[own.t == 0]
        assert row["episodes"] == len(episodes) == 40
        assert row["success_rate"] == pytest.approx(episodes.success.mean())
        assert row["success_ci"][0] <= row["success_rate"] <= row["success_ci"][1]
        assert row["llm_call_rate"] == pytest.approx((own.actor == "teacher").mean())
        assert row["worst_seed_success"] == pytest.approx(episodes.groupby("z").success.mean().min())
        worst_two = 1 - episodes.groupby("z").success.mean().sort_values().head(2)
        assert row["cvar_failure"] == pytest.approx(worst_two.mean())


def test_more_help_is_not_worse(summary: dict[str, Any]) -> None:
    rates = {r["threshold"]: r["success_rate"] for r in summary["routers"] if r["name"] == "random"}
    ends = {r["name"]: r["success_rate"] for r in summary["routers"] if r["threshold"] is None}
    assert ends["slm_only"] < rates[0.5] <= ends["teacher_only"]
    assert rates[0.1] <= rates[0.75]


def test_the_page_stands_alone_and_says_simulated(simulated_run: Path) -> None:
    page = (simulated_run / "report" / "index.html").read_text()
    assert "Simulated policy." in page
    assert "privileged oracle" in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert page.count("<svg") == 2
    assert (simulated_run / "report" / "frontier.png").stat().st_size > 10_000


def test_episodes_on_the_terminal(simulated_run: Path) -> None:
    shown = cli("rollouts", str(simulated_run), "--router", "slm_only", "--failed", "--limit", "1")
    assert "Goal: " in shown
    assert "slm > wait" in shown
    assert "no episode matches" in cli("rollouts", str(simulated_run), "--task", "nosuchtask")


def test_doctor_finds_what_is_installed() -> None:
    findings = json.loads(cli("doctor", "--json"))
    assert findings["engines"] == {"vllm": True, "deepspeed": True, "ray": True}
    assert findings["cpu_cores"] >= 1
    assert findings["sandbox"]["level"] in ("bubblewrap", "rlimits", "none")
