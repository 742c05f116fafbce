"""Whole runs with real pretrained models, where they have been fetched: `make real-models`."""

import json
from pathlib import Path
from typing import Any

import pytest

from r2v_dist.errors import UsageError
from r2v_dist.pretrained.places import model_path
from r2v_dist.storage import rollouts as rollout_store
from tests.codes import require_data
from tests.runs import finish
from tests.sandboxes import require_bubblewrap


def require_models(*names: str) -> None:
    """Skips with the reason where a model has not been fetched."""
    for name in names:
        try:
            model_path(name, "slm.model")
        except UsageError as error:
            pytest.skip(str(error))


def summary_of(run_dir: Path) -> Any:
    return json.loads((run_dir / "report" / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_qwen_writes_programs_and_the_router_asks_a_larger_one(tmp_path: Path) -> None:
    require_bubblewrap()
    require_data()
    require_models("qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct")
    finish(["configs/humaneval_qwen_smoke.yaml"], tmp_path, 1400)
    summary = summary_of(tmp_path)
    assert not summary["simulated"]
    assert summary["teacher"]["backend"] == "vllm"
    assert {row["name"] for row in summary["routers"]} >= {"slm_only", "teacher_only", "r2v"}
    assert summary["certificate"] is not None
    played = rollout_store.read(tmp_path / "rollouts" / "evaluate", ["task", "actor", "policy"])
    assert set(played["actor"].drop_null().to_pylist()) == {"slm", "teacher"}
    assert all(task.startswith("HumanEval/") for task in played["task"].to_pylist())
    assert {policy.partition("-")[0] for policy in played["policy"].to_pylist()} == {"base"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_smollm2_learns_games_from_their_planner(tmp_path: Path) -> None:
    require_models("smollm2-135m-instruct")
    finish(["configs/textworld_smollm2_smoke.yaml"], tmp_path, 1400)
    summary = summary_of(tmp_path)
    assert {row["name"] for row in summary["routers"]} >= {"slm_only", "teacher_only", "r2v"}
    names = [stage["name"] for stage in summary["stages"]]
    assert names[:4] == ["tasks", "collect", "baseline", "bc"]
