"""The run directory: complete stages stay, other inputs never overwrite, one run at a time."""

import json
from pathlib import Path

import pytest

from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
from r2v_dist.storage.run_dir import RunDir
from tests.runs import ROOT


def test_a_stage_is_complete_only_with_a_manifest(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.begin("collect", "one")
    assert run.manifest("collect") is None
    run.begin("collect", "one")
    run.complete("collect", "one", 2.5, {"episodes": 3})
    manifest = run.manifest("collect")
    assert manifest is not None
    assert (manifest.input_hash, manifest.attempts, manifest.results) == ("one", 2, {"episodes": 3})


def test_what_other_inputs_left_is_set_aside_and_not_lost(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for inputs in ("one", "two", "one"):
        run.begin("collect", inputs)
        run.rollouts("collect").mkdir(parents=True, exist_ok=True)
        (run.rollouts("collect") / "000000.arrow").write_text(inputs)
        run.complete("collect", inputs, 0.0, {})
    kept = {p.name: (p / "000000.arrow").read_text() for p in (tmp_path / "rollouts").iterdir()}
    assert kept == {"collect.one": "one", "collect.two": "two", "collect": "one"}


def test_a_run_that_began_on_gpus_remembers_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", [])
    assert not run.began_on_gpus()
    run.write_config(config)
    assert not run.began_on_gpus()
    run.write_config(config.with_gpus("require"))
    assert run.began_on_gpus()
    run.write_config(config.with_gpus("none"))
    assert not run.began_on_gpus()
    (tmp_path / "config.yaml").write_bytes(b"\xff\x00: [")
    assert not run.began_on_gpus()


def test_two_runs_do_not_share_a_directory(tmp_path: Path) -> None:
    with (
        RunDir(tmp_path).lock(60),
        pytest.raises(UsageError, match=r"another run .* is at work"),
        RunDir(tmp_path).lock(60),
    ):
        pass
    with RunDir(tmp_path).lock(60):
        pass


def test_attempts_are_on_record(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.begin("bc", "x")
    [line] = (run.stage("bc") / "attempts.jsonl").read_text().splitlines()
    assert json.loads(line)["input_hash"] == "x"
