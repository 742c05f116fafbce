"""What is done with a checkpoint of other ranks follows from its files; what cannot serve is set
aside with one line that says why.
"""

from pathlib import Path

import pytest
import torch

from learners.common.other_ranks import NOTICES, parts_of, prepare
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.files import read_json_lines


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda objects, src: None)


def checkpoint(stage: Path, ranks: int, zero_stage: int) -> Path:
    """The names of the files that DeepSpeed writes."""
    folder = stage / "checkpoints" / "checkpoint-8"
    parts = folder / "global_step8"
    parts.mkdir(parents=True)
    (folder / "latest").write_text("global_step8")
    for rank in range(ranks if zero_stage else 0):
        (parts / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
        if zero_stage == 3:
            (parts / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").touch()
    if zero_stage < 3:
        (parts / "mp_rank_00_model_states.pt").touch()
    return folder


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_same_ranks_go_on_as_they_are(tmp_path: Path, zero_stage: int) -> None:
    folder = checkpoint(tmp_path, 2, zero_stage)
    assert parts_of(folder) == (2 if zero_stage else 0, zero_stage == 3)
    config = DeepSpeedConfig.model_validate({"ranks": 2, "zero_stage": zero_stage})
    assert prepare(folder, config, "bc") == "as it is"
    assert not (tmp_path / NOTICES).is_file()


def test_an_undivided_optimizer_serves_any_number_of_ranks(tmp_path: Path) -> None:
    config = DeepSpeedConfig(ranks=4, zero_stage=0)
    assert prepare(checkpoint(tmp_path, 2, 0), config, "bc") == "as it is"


@pytest.mark.parametrize(("before", "now"), [(2, 3), (3, 2), (2, 0), (0, 2)])
def test_another_stage_starts_again_and_says_so(tmp_path: Path, before: int, now: int) -> None:
    folder = checkpoint(tmp_path, 2, before)
    config = DeepSpeedConfig.model_validate({"ranks": 2, "zero_stage": now})
    assert prepare(folder, config, "bc") == "again"
    [notice] = read_json_lines(tmp_path / NOTICES)
    assert notice["text"].startswith("learner bc: its checkpoint, in ")
    assert notice["text"].endswith("(it is of another stage of ZeRO); it starts again")
    assert not folder.exists()


def test_what_cannot_be_converted_starts_again_and_says_why(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2, 3)  # its files are empty
    assert prepare(folder, DeepSpeedConfig(ranks=1, zero_stage=3), "bc") == "again"
    [notice] = read_json_lines(tmp_path / NOTICES)
    assert "checkpoint, in 2 parts, does not serve 1 ranks with ZeRO-3 (" in notice["text"]
