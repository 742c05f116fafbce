"""Adapters as files do what PEFT does with them: added to weights, and two in a row as one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from learners.common.adapters import merge, own_adapter, whole
from r2v_dist.config.run import load_config
from r2v_dist.errors import DamagedFile, RuntimeFailure
from r2v_dist.pipeline.model_sources import for_engines
from r2v_dist.storage.checkpoints import Checkpoint, published
from r2v_dist.storage.model_identity import checkpoint_version
from tests.adapters import make_adapter
from tests.runs import DEMO

Weights = dict[str, Any]


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """An adapter as a learner publishes it, its scale made one; and what PEFT merges it into."""
    folder = tmp_path_factory.mktemp("checkpoints") / "bc-1"
    merged = make_adapter(tiny_model, folder, seed=1)
    shutil.copy2(tiny_model / "tokenizer.json", folder)
    own_adapter(folder, str(tiny_model))
    return folder, merged


def weights_of(checkpoint: Checkpoint, dtype: str = "float32") -> Weights:
    return dict(load_file(Path(whole(checkpoint, dtype)) / "model.safetensors"))


def farthest(weights: Weights, others: Weights) -> float:
    """The largest difference of two tensors of one name."""
    return max(float((weights[name] - others[name]).abs().max()) for name in weights)


def test_merged_weights_are_those_that_peft_makes(
    tiny_model: Path, made: tuple[Path, Weights]
) -> None:
    folder, by_peft = made
    checkpoint = published(folder, "bc-1")
    assert checkpoint == Checkpoint(str(tiny_model.resolve()), "bc-1", str(folder))
    weights = weights_of(checkpoint)
    assert set(weights) == set(load_file(tiny_model / "model.safetensors"))
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert farthest(weights, by_peft) < 1e-6
    assert farthest(weights, load_file(tiny_model / "model.safetensors")) > 0.01
    merged = Path(whole(checkpoint, "float32"))
    assert json.loads((merged / "config.json").read_text())["dtype"] == "float32"
    assert published(merged, "x") == Checkpoint(str(merged), "x")
    assert (merged / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_merged_weights_are_made_once_for_a_precision(made: tuple[Path, Weights]) -> None:
    checkpoint = published(made[0], "bc-1")
    config = Path(whole(checkpoint, "float32")) / "config.json"
    first = config.stat().st_mtime_ns
    assert Path(whole(checkpoint, "float32")) == config.parent
    assert config.stat().st_mtime_ns == first
    halves = weights_of(checkpoint, "bfloat16")
    assert {weight.dtype for weight in halves.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("override", "merges"),
    [
        ("cluster.gpus=none", True),
        ("cluster.gpus=require", False),
        ("slm.merge_adapters=true", True),
    ],
)
def test_engines_on_cpus_are_given_merged_weights(
    override: str, merges: bool, made: tuple[Path, Weights]
) -> None:
    checkpoint = published(made[0], "bc-1")
    config = load_config(DEMO, ["slm.dtype=float32", override])
    given = for_engines(checkpoint, config)
    merged = Checkpoint(whole(checkpoint, "float32"), "bc-1")
    assert given == (merged if merges else checkpoint)


def test_an_adapter_on_top_of_another_is_one_adapter(
    tiny_model: Path, made: tuple[Path, Weights], tmp_path: Path
) -> None:
    start = published(made[0], "bc-1")
    by_peft = make_adapter(Path(whole(start, "float32")), tmp_path, seed=2)
    own_adapter(tmp_path, start.path, start.adapter)
    both = published(tmp_path, "dpo-1")
    assert both.path == str(tiny_model.resolve())
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 8
    assert farthest(weights_of(both), by_peft) < 1e-6


def test_a_version_names_the_adapter_and_its_model(
    tiny_model: Path, made: tuple[Path, Weights], tmp_path: Path
) -> None:
    folder, _ = made
    version = checkpoint_version("bc", folder)
    assert version != checkpoint_version("bc", tiny_model)
    moved = shutil.copytree(folder, tmp_path / "moved")
    own_adapter(moved, whole(published(folder, ""), "float32"))
    assert checkpoint_version("bc", moved) != version


def test_what_does_not_belong_to_the_model_is_refused(
    made: tuple[Path, Weights], tmp_path: Path
) -> None:
    folder, _ = made
    other = tmp_path / "other"
    other.mkdir()
    save_file({"model.norm.weight": torch.zeros(4)}, other / "model.safetensors")
    (other / "config.json").write_text("{}")
    with pytest.raises(RuntimeFailure, match=r"adapts model\.layers\.0\.mlp\.down_proj\.weight"):
        merge(other, folder, tmp_path / "merged")
    (other / "adapter_config.json").write_text("{}")
    with pytest.raises(DamagedFile, match="names no model"):
        published(other, "bc-1")
