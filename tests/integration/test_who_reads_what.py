"""docs/method.md, section 10: which stage may touch which tasks, seeds and replicas, checked on the
episodes of a finished run.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from r2v_dist.config.run import load_config
from r2v_dist.labels.table import LabelTable
from r2v_dist.router.names import DRAWN
from r2v_dist.storage import rollouts as rollout_store

TRAIN, VALIDATION, TEST = 0, 1000, 2000
"""First seed of each split's block."""
ALLOWED = {
    "collect": {("train", TRAIN)},
    "visits": {("train", TRAIN), ("validation", VALIDATION)},
    "labels": {("train", TRAIN), ("validation", VALIDATION)},
    "visits2": {("train", TRAIN), ("validation", VALIDATION)},
    "labels2": {("train", TRAIN), ("validation", VALIDATION)},
    "score": {("validation", VALIDATION)},
    "validate": {("validation", VALIDATION)},
    "calibrate": {("calibration", TEST)},
    "evaluate": {("test", TEST)},
}
"""Of every stage that plays: splits, each with the block of its seeds."""
LABELLING = ("labels", "labels2")


def stages(run_dir: Path) -> list[str]:
    return sorted(folder.name for folder in (run_dir / "rollouts").iterdir())


def test_every_stage_keeps_to_its_tasks_and_seeds(simulated_run: Path) -> None:
    assert (
        {"visits", "labels", "visits2", "labels2", "validate", "calibrate", "evaluate"}
        <= set(stages(simulated_run))
        <= set(ALLOWED)
    )
    split_of = {
        task["id"]: task["split"]
        for task in json.loads((simulated_run / "stages" / "tasks" / "tasks.json").read_text())
    }
    for stage in stages(simulated_run):
        table = rollout_store.read(simulated_run / "rollouts" / stage, ["task", "split", "z"])
        met = set(
            zip(
                table["task"].to_pylist(),
                table["split"].to_pylist(),
                table["z"].to_pylist(),
                strict=True,
            )
        )
        assert all(split_of[task] == split for task, split, _ in met)
        perturbed = {(split, z // 1000 * 1000) for _, split, z in met if z is not None}
        assert perturbed == ALLOWED[stage]


def test_no_task_is_in_two_splits(simulated_run: Path) -> None:
    tasks = json.loads((simulated_run / "stages" / "tasks" / "tasks.json").read_text())
    assert len({task["id"] for task in tasks}) == len(tasks)


def test_nothing_is_both_label_and_test(simulated_run: Path) -> None:
    for stage in stages(simulated_run):
        table = rollout_store.read(simulated_run / "rollouts" / stage, ["replica", "branch"])
        replicas = set(table["replica"].to_pylist())
        if stage in LABELLING:
            assert min(replicas) >= 1
            assert table["branch"].null_count == 0
        else:
            assert replicas == {0}


@pytest.mark.parametrize("stage", LABELLING)
def test_what_calibrates_has_equal_n_and_unit_weights(simulated_run: Path, stage: str) -> None:
    labels = LabelTable.load(simulated_run / "stages" / stage / "validation.arrow")
    config = load_config(simulated_run / "config.yaml", [])
    assert set(labels.n1[labels.n1 > 0].tolist()) <= {float(config.labels.n)}
    assert set(labels.weight.tolist()) == {1.0}
    assert set(labels.split.tolist()) == {"validation"}


def test_the_number_of_branches_depends_on_features_alone(simulated_run: Path) -> None:
    """Second-round training states have n_unsure branches exactly where the first router's risk is
    between .1 and .9; all that a router went on from has one pair.
    """
    from r2v_dist.router.model import RouterModel

    labels = LabelTable.load(simulated_run / "stages" / "labels2" / "train.arrow")
    first = json.loads((simulated_run / "stages" / "router" / "manifest.json").read_text())[
        "results"
    ]
    risk = RouterModel.load(simulated_run / first["routers"]["r2v"]).predict(labels.features_NF).rho
    config = load_config(simulated_run / "config.yaml", []).labels
    branched_N = labels.n1 > 0
    assert (
        labels.n1[branched_N].tolist()
        == np.where((risk > 0.1) & (risk < 0.9), config.n_unsure, config.n)[branched_N].tolist()
    )
    assert set(labels.pairs.tolist()) == {0.0, 1.0}
    assert labels.pairs.sum() == config.pairs
    assert (branched_N | (labels.pairs > 0)).all()


def test_thresholds_come_from_validation_alone(simulated_run: Path) -> None:
    validate = json.loads((simulated_run / "stages" / "validate" / "manifest.json").read_text())[
        "results"
    ]
    scored = rollout_store.read(
        simulated_run / "rollouts" / "validate", ["router", "threshold", "score"]
    )
    watching = scored.filter(pc.is_inf(scored["threshold"]))
    for name, thresholds in validate["thresholds"].items():
        assert validate["selected"][name] in thresholds
        if name not in DRAWN:
            own = set(watching.filter(pc.equal(watching["router"], name))["score"].to_pylist())
            assert set(thresholds) <= own
