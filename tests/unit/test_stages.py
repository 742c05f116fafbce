"""Training seeds: what is done again reads and writes its own folders, and shares what is shared."""

from pathlib import Path
from typing import Any

from r2v_dist.config import load_config
from r2v_dist.pipeline import stages
from r2v_dist.run_dir import Manifest, RunDir
from r2v_dist.stages import Context

ROOT = Path(__file__).parents[2]


def context(stage: str, done: list[str], seed: int, root: Path) -> Context:
    config = load_config(ROOT / "configs" / "textworld_full.yaml", [])
    crew: Any = None
    return Context(config, RunDir(root), crew, stage, "hash", {name: Manifest(name, "hash", 0.0, 1, {}) for name in done}, seed)


def test_a_stage_under_way_owns_its_folder(tmp_path: Path) -> None:
    second = context("branches@1", ["tasks", "bc", "states", "branches", "bc@1", "states@1"], 1, tmp_path)
    assert second.folder("branches").name == "branches@1"
    assert second.rollouts("branches").name == "branches@1"
    assert second.rollouts("states").name == "states@1"
    assert second.folder("tasks").name == "tasks"
    first = context("branches", ["tasks", "bc", "states"], 0, tmp_path)
    assert first.folder("branches").name == "branches"


def test_everything_trained_is_done_for_each_seed_and_the_rest_once() -> None:
    planned = stages(load_config(ROOT / "configs" / "textworld_full.yaml", []))
    names = [stage.name for stage in planned]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith(("tasks", "collect", "baseline"))] == ["tasks", "collect", "baseline"]
    for stage in planned:
        assert set(stage.needs) <= set(names[: names.index(stage.name)])
        own = [need for need in stage.needs if need not in ("tasks", "collect", "baseline")]
        assert {need.partition("@")[2] for need in own} <= {stage.name.partition("@")[2]}
    assert {"evaluate", "evaluate@1", "evaluate@2"} <= set(names)


def test_no_router_no_calibration() -> None:
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", ["evaluate.routers=[entropy]"])
    assert "calibrate" not in [stage.name for stage in stages(config)]
