"""A run in an environment that no part of the product knows: trained, certified and reported."""

import json
from pathlib import Path

from r2v_dist.cli.main import main
from tests.runs import finish, outcomes

SMALL = [
    "examples/own_environment.yaml",
    "env.splits={train: 4, validation: 4, calibration: 12, test: 6}",
    "perturb={validation_seeds: 10, test_seeds: 4}",
    "labels={tasks: 4, validation_tasks: 4, rounds: 1, states: 24, validation_states: 24, n: 2}",
    "router={epsilon: 0.05, score: value, risk_steps: 60, policy_steps: 60}",
    "evaluate={rates: [0.2, 0.5], routers: [random, r2v], bootstrap: 200}",
    "cluster.shard_seconds=0.2",
]


def test_a_router_is_trained_certified_and_reported_in_an_environment_of_ones_own(
    tmp_path: Path,
) -> None:
    output = finish([*SMALL, "cluster.executor=inline"], tmp_path, 400)
    assert "r2v" in output
    before = len(outcomes(tmp_path))
    # Runners on Ray get the file too: what is asked for now is played there.
    finish([*SMALL, "evaluate.rates=[0.2, 0.5, 0.7]"], tmp_path, 400)
    assert len(outcomes(tmp_path)) > before
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["env"] == "examples/own_environment.py:SPEC"
    rows = summary["routers"]
    [alone] = [row["success_rate"] for row in rows if row["name"] == "slm_only"]
    routed = [row for row in rows if row["name"] == "r2v"]
    best = max(routed, key=lambda row: float(row["success_rate"]))
    assert alone < best["success_rate"] <= 1
    assert 0 < best["llm_call_rate"] < 1
    main(["certify", str(tmp_path), "--risk", "0.5"])
    assert json.loads((tmp_path / "report" / "certificate.json").read_text())["feasible"]
