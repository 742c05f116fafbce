"""A run in real terminals with a SIMULATED SLM: trained, routed and reported, in one process and
then on Ray.
"""

import json
from pathlib import Path

import pytest

from tests.runs import finish, outcomes
from tests.sandboxes import require_bubblewrap

SMALL = [
    "configs/terminal_bench_simulated.yaml",
    "env.splits={train: 4, validation: 4, calibration: 8, test: 4}",
    "perturb={validation_seeds: 10, test_seeds: 4}",
    "labels={tasks: 4, validation_tasks: 4, rounds: 1, states: 40, validation_states: 24, n: 2}",
    "router={epsilon: 0.05, score: value}",
    "evaluate={rates: [0.2, 0.5], routers: [random, r2v], bootstrap: 200}",
    "cluster.shard_seconds=0.2",
]


@pytest.mark.slow
def test_a_router_is_trained_and_reported_in_real_terminals(tmp_path: Path) -> None:
    require_bubblewrap()
    finish([*SMALL, "cluster.executor=inline"], tmp_path, 500)
    before = len(outcomes(tmp_path))
    finish([*SMALL, "evaluate.rates=[0.2, 0.5, 0.7]"], tmp_path, 500)
    assert len(outcomes(tmp_path)) > before
    summary = json.loads((tmp_path / "report" / "summary.json").read_text(encoding="utf-8"))
    assert summary["env"] == "terminal_bench"
    rates = {row["name"]: row["success_rate"] for row in summary["routers"]}
    assert rates["slm_only"] < rates["teacher_only"]
    assert rates["teacher_only"] > 0.9
