"""The whole offline pipeline, small but real: clone, branch, verifier, pairs, DPO, and the SLM as
it is then deployed.
"""

import json
from pathlib import Path

import pytest

from r2v_dist.labels import branch_values
from r2v_dist.storage import rollouts as rollout_store
from tests.runs import benchmark, finish

SMALL = [
    "configs/textworld_full.yaml",
    "env.splits={train: 12, validation: 6, test: 4}",
    "perturb={train_seeds: 10, validation_seeds: 4, test_seeds: 10}",
    "collect.perturbed_episodes=3",
    "branches={tasks: 8, validation_tasks: 6, seeds: 3, states: 24, validation_states: 12, n: 2, "
    "n_agreed: 1}",
    "dpo.min_gap=0.02",
    "router=null",
    "evaluate={rates: [0.25], routers: [random, entropy]}",
]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_slm_learns_from_its_own_failures(tmp_path: Path) -> None:
    finish(SMALL, tmp_path, 1200)
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    names = [stage["name"] for stage in summary["stages"]]
    assert names[3:10] == ["bc", "states", "branches", "verifier", "pairs", "dpo", "cloned"]
    learning = summary["learning"]
    assert learning["branches"]["drifted"] == 0
    assert learning["branches"]["train_states"] == 24
    assert (
        learning["pairs"]["pairs"]
        + sum(learning["pairs"][why] for why in ("clean", "one_action", "small_gap"))
        == 24
    )
    assert (
        learning["verifier"]["validation"]["candidates"]
        == learning["branches"]["validation_values"]
    )
    values = branch_values.load(tmp_path / "stages" / "branches" / "train.arrow")
    assert set(values["source"].to_pylist()) == {"slm", "teacher"}
    assert {row["name"] for row in summary["routers"]} == {
        "slm_only",
        "best_of_k",
        "teacher_only",
        "random",
        "entropy",
    }

    evaluated = rollout_store.read(
        tmp_path / "rollouts" / "evaluate",
        ["router", "policy", "verifier", "verifier_scores", "actor"],
    )
    assert all(policy.startswith("dpo") for policy in evaluated["policy"].unique().to_pylist())
    assert all(version.startswith("v-") for version in evaluated["verifier"].unique().to_pylist())
    best = evaluated.filter(
        evaluated["router"].cast("string").to_numpy(zero_copy_only=False) == "best_of_k"
    )
    assert all(len(scores) == 5 for scores in best["verifier_scores"].to_pylist())
    cloned = rollout_store.read(tmp_path / "rollouts" / "cloned", ["router", "policy"])
    assert all(policy.startswith("bc") for policy in cloned["policy"].unique().to_pylist())
    assert set(cloned["router"].unique().to_pylist()) == {"slm_only", "best_of_k"}
    gains = ["DPO, one sample", "DPO, best of K", "best of K, cloned", "best of K, deployed"]
    assert [row["gain"] for row in summary["policy_gains"]] == gains
    rates = {
        row["name"]: row["success_rate"] for row in summary["routers"] if row["threshold"] is None
    }
    assert summary["policy_gains"][3]["difference"] == pytest.approx(
        rates["best_of_k"] - rates["slm_only"]
    )
    ablation = benchmark("dpo_ablation", ["--run", str(tmp_path)], 900)
    assert [row["policy"] for row in ablation["policies"]] == [
        "BC",
        "DPO",
        "DPO + consistency",
        "DPO + likelihood of a+",
        "all terms",
    ]
