"""Ranks that outlive their driver: once another driver has taken over, they publish nothing, log
nothing and save nothing.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from learners.behaviour_cloning.train import BCJob
from learners.common.hf_trainer import publish, recorder
from learners.common.jobs import run_job
from learners.router.engine import Log
from r2v_dist.config.learners import BCConfig
from r2v_dist.errors import Superseded
from r2v_dist.files import read_json_lines
from r2v_dist.storage import fence as fences

DRIVER = {"host": "a", "pid": 1, "since": "2026"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)


@pytest.fixture
def job(tmp_path: Path) -> BCJob:
    return BCJob(
        rollouts=tmp_path / "rollouts",
        model="",
        system_prompt="",
        output=tmp_path / "checkpoints" / "bc",
        stage=tmp_path / "stage",
        seed=0,
        config=BCConfig(),
        fence=fences.take(tmp_path, 1, DRIVER),
    )


def save(folder: str) -> None:
    """What a trainer's or a tokenizer's method does."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "config.json").write_text("{}")


TRAINER: Any = SimpleNamespace(save_model=save, model=None)
TOKENIZER: Any = SimpleNamespace(save_pretrained=save)


def test_a_checkpoint_is_published_by_the_driver_of_the_day_alone(
    job: BCJob, tmp_path: Path
) -> None:
    publish(TRAINER, TOKENIZER, job)
    assert [path.name for path in job.output.parent.iterdir()] == ["bc"]
    (job.output / "config.json").write_text("of the first")
    successor = fences.take(tmp_path, 2, DRIVER)
    with pytest.raises(Superseded, match="has taken over"):
        publish(TRAINER, TOKENIZER, job)
    assert (job.output / "config.json").read_text() == "of the first"
    assert successor is not None
    assert job.scratch.name == "bc.1.tmp"  # not where the second one writes


def test_training_ends_before_it_logs_or_saves(job: BCJob, tmp_path: Path) -> None:
    watch = recorder(job.stage, fence=job.fence)
    at_log = SimpleNamespace(should_log=True, should_save=False)
    between = SimpleNamespace(should_log=False, should_save=False)
    watch.on_step_end(None, None, at_log)
    fences.take(tmp_path, 2, DRIVER)
    watch.on_step_end(None, None, between)  # a look at the storage at every step would cost
    for control in (at_log, SimpleNamespace(should_log=False, should_save=True)):
        with pytest.raises(Superseded):
            watch.on_step_end(None, None, control)


def test_a_router_logs_nothing_more(job: BCJob, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = Log(path, True, "r2v", 2, job.require)
    log.add(1, loss=0.5)
    fences.take(tmp_path, 2, DRIVER)
    with pytest.raises(Superseded):
        log.add(2, loss=0.4)
    assert [row["step"] for row in read_json_lines(path)] == [1]


def test_ranks_that_start_late_do_not_begin(
    job: BCJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[BCJob] = []
    monkeypatch.setattr("learners.common.jobs.run_ranks", lambda loop, *_: loop())
    fences.take(tmp_path, 2, DRIVER)
    with pytest.raises(Superseded):
        run_job(job, began.append)
    assert not began
