"""`r2v export` writes weights that any tool loads, from a run that has them."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from r2v_dist.cli.main import main
from r2v_dist.config.run import load_config
from r2v_dist.storage.run_dir import RunDir
from tests.adapters import make_adapter
from tests.runs import ROOT


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that has begun; nothing is trained yet."""
    config = load_config(
        ROOT / "configs" / "textworld_demo.yaml",
        [f"run_dir={tmp_path / 'run'}", "bc.lora={r: 4}", "dpo=null"],
    )
    RunDir(tmp_path / "run").write_config(config)
    return tmp_path / "run"


def test_an_adapter_is_merged(run_dir: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = RunDir(run_dir)
    folder = run.checkpoint("slm", "bc-1")
    by_peft = make_adapter(tiny_model, folder, seed=0)
    shutil.copy2(tiny_model / "tokenizer.json", folder)
    run.begin("bc", "h")
    results = {"checkpoint": str(folder.relative_to(run.root)), "version": "bc-1"}
    run.complete("bc", "h", 0.0, results)
    main(["export", str(run_dir), str(tmp_path / "model")])
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert all((weight - by_peft[name]).abs().max() < 1e-6 for name, weight in weights.items())
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "qwen3"
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(run_dir), str(tmp_path / "model")])  # it exists


def test_a_run_without_a_model_is_one_line(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(run_dir), str(tmp_path / "model")])
    assert "has no trained SLM of training seed 0" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
