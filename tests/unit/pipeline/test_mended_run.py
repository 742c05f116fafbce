"""`r2v run` on a run that was damaged: what was lost is played again, and the run ends as it had.

Stages, store, manifests and report are the real ones; episodes come from services that play without
games, so that every kind of damage can be tried.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.collector import Collector, StageFolder
from actors.dispatcher import remaining
from actors.totals import Totals
from r2v_dist.cli.main import main
from r2v_dist.episodes import Task, Unit
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.checkpoints import Checkpoint
from tests.runs import ROOT, outcomes
from tests.unit.storage.test_damage import DAMAGE, complaint, episode

RUN = [
    str(ROOT / "configs" / "textworld_simulated.yaml"),
    "router=null",
    "evaluate={rates: [0.1, 0.3], routers: [random]}",
]
PERTURB = "perturb={train_seeds: 10, validation_seeds: 10, test_seeds: 10}"


class PretendedServices:
    """Commits an episode for every key, won or lost by the key alone."""

    played = 0

    def __init__(self, *_: object) -> None:
        pass

    def start_early(self) -> None:
        pass

    def cores(self) -> int:
        return 1

    def base_checkpoint(self) -> Checkpoint:
        return Checkpoint("", "simulated-0.6")

    def teacher_version(self) -> str:
        return "expert"

    def load_slm(self, checkpoint: Checkpoint) -> None:
        pass

    def deploy(self, *_: object) -> None:
        pass

    def log_totals(self, *_: object) -> None:
        pass

    def roll_out(self, units: list[Unit], folder: Path, on_progress: object) -> Totals:
        collector = Collector(StageFolder(folder, 16, 1e9))
        for unit in remaining(units, rollout_store.committed_keys(folder)):
            for arm in unit.arms:
                key = unit.key(arm)
                won = random.Random(str(key)).random() < 0.7
                one = episode(unit.task.id)
                collector.add([replace(one, key=key, split=unit.task.split, arm=arm, success=won)])
                PretendedServices.played += 1
        collector.flush()
        return Totals()


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [
        Task(f"{split}-{n}", split, "none", ())
        for split in ("validation", "test")
        for n in range(3)
    ]
    monkeypatch.setattr("envs.tasks.make_tasks", lambda *_: tasks)
    monkeypatch.setattr("r2v_dist.pipeline.services.Services", PretendedServices)
    monkeypatch.setattr(
        "r2v_dist.report.figures.catalogue.draw_figures", lambda *_: []
    )  # they take most of the time


def run(folder: Path) -> int:
    """How many episodes a call of `r2v run` plays."""
    PretendedServices.played = 0
    main(["run", *RUN, PERTURB, "cluster.memory_gib=0.1", f"run_dir={folder}"])
    return PretendedServices.played


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the finished run goes; the first test that asks makes it."""
    return tmp_path_factory.mktemp("runs") / "whole"


@pytest.fixture
def hurt(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A copy of the finished run, to be damaged."""
    if not whole.exists():
        assert run(whole) > 0
    shutil.copytree(whole, tmp_path / "hurt")
    capsys.readouterr()
    return tmp_path / "hurt"


def test_a_finished_run_plays_nothing(hurt: Path) -> None:
    assert run(hurt) == 0


@pytest.mark.parametrize("complete", [True, False])
def test_a_shard_of_another_stage_is_set_aside(
    whole: Path, hurt: Path, capsys: pytest.CaptureFixture[str], complete: bool
) -> None:
    foreign = hurt / "rollouts" / "evaluate" / "000099.arrow"
    shutil.copy(rollout_store.shards(hurt / "rollouts" / "validate")[0], foreign)
    if not complete:
        (hurt / "stages" / "evaluate" / "manifest.json").unlink()
    assert run(hurt) == 0
    assert f"{foreign} " in capsys.readouterr().err
    assert not foreign.exists()
    assert outcomes_of(hurt) == outcomes_of(whole)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("damage", [*DAMAGE, "deleted"])
def test_a_damaged_shard_is_played_again(
    whole: Path, hurt: Path, capsys: pytest.CaptureFixture[str], damage: str, complete: bool
) -> None:
    shards = rollout_store.shards(hurt / "rollouts" / "evaluate")
    assert len(shards) > 3
    for shard in (shards[1], shards[-1]):
        if damage == "deleted":
            shard.unlink()
        else:
            shard.write_bytes(DAMAGE[damage](shard.read_bytes()))
    if not complete:
        (hurt / "stages" / "evaluate" / "manifest.json").unlink()
    before = {path: path.read_bytes() for path in shards[2:-1]}
    assert run(hurt) >= 16
    assert outcomes_of(hurt) == outcomes_of(whole)
    assert {path: path.read_bytes() for path in before} == before
    warned = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("r2v: warning")
    ]
    if damage != "deleted":
        aside = hurt / "quarantine" / "rollouts" / "evaluate"
        assert {shard.name for shard in (shards[1], shards[-1])} == {
            path.name for path in aside.iterdir()
        }
        assert all(any(str(shard) in line for line in warned) for shard in (shards[1], shards[-1]))
    elif complete:
        assert any(str(shards[1]) in line for line in warned)
    assert run(hurt) == 0


@pytest.mark.parametrize("name", ["evaluate", "validate", "tasks"])
@pytest.mark.parametrize("text", ["", '{"stage": "evalu'])
def test_a_cut_manifest_means_that_the_stage_is_not_complete(
    whole: Path, hurt: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    manifest = hurt / "stages" / name / "manifest.json"
    manifest.write_text(text)
    with (hurt / "stages" / name / "attempts.jsonl").open("a") as log:
        log.write('{"input_hash": "ab')
    assert run(hurt) == 0
    assert str(manifest) in capsys.readouterr().err
    assert outcomes_of(hurt) == outcomes_of(whole)
    assert json.loads(manifest.read_text())["attempts"] == 2


LOSSES: dict[str, Callable[[Path], Any]] = {
    "rollouts": lambda run: shutil.rmtree(run / "rollouts" / "evaluate"),
    "all rollouts": lambda run: shutil.rmtree(run / "rollouts"),
    "tasks": lambda run: (run / "stages" / "tasks" / "tasks.json").write_text("[{"),
    "stages": lambda run: shutil.rmtree(run / "stages"),
    "report": lambda run: shutil.rmtree(run / "report"),
    "config": lambda run: (run / "config.yaml").write_text("env: ["),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_was_deleted_is_made_again(whole: Path, hurt: Path, loss: str) -> None:
    LOSSES[loss](hurt)
    run(hurt)
    assert outcomes_of(hurt) == outcomes_of(whole)
    assert (hurt / "report" / "index.html").is_file()


def test_episodes_that_an_older_version_lost_are_counted(
    whole: Path, hurt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("validate", "evaluate"):
        manifest = hurt / "stages" / name / "manifest.json"
        manifest.write_text(
            json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "covers"})
        )
    rollout_store.shards(hurt / "rollouts" / "evaluate")[1].unlink()
    assert str(hurt / "rollouts" / "evaluate") in complaint(capsys, "report", str(hurt))
    assert run(hurt) == 16
    assert outcomes_of(hurt) == outcomes_of(whole)


def test_a_configuration_that_was_edited_by_hand_is_named(
    hurt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hurt / "config.yaml").write_text("env: [\n")
    assert str(hurt / "config.yaml") in complaint(capsys, "report", str(hurt))


def outcomes_of(folder: Path) -> list[tuple[str, bool]]:
    """Of the committed stages; what was set aside is no stage."""
    rows = outcomes(folder)
    assert len({key for key, _ in rows}) == len(rows)
    return rows
