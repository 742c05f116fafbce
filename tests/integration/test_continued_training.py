"""Training that goes on with another number of ranks ends where it would have ended anyway."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.runs import ROOT

STEPS, SAVED = 8, 3


@pytest.mark.slow
@pytest.mark.parametrize(("zero_stage", "lora"), [(1, False), (2, True), (3, False), (3, True)])
def test_two_ranks_then_one_then_two_learn_what_two_learn(
    zero_stage: int, lora: bool, tmp_path: Path
) -> None:
    whole = trained(tmp_path / "whole", [(2, STEPS)], zero_stage, lora)
    parts = trained(tmp_path / "parts", [(2, 4), (1, 7), (2, STEPS)], zero_stage, lora)
    assert not list(tmp_path.glob("parts/notices.jsonl"))
    assert [row["step"] for row in parts[0]] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in parts[0]] == pytest.approx(
        [row["loss"] for row in whole[0]], rel=1e-5
    )
    for name, weight in whole[1].items():
        assert (weight - parts[1][name]).abs().max() < 1e-5, name


def trained(
    stage: Path, attempts: list[tuple[int, int]], zero_stage: int, lora: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What is logged, and the weights, after attempts of so many ranks up to a step."""
    stage.mkdir()
    for ranks, last in attempts:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        common = {"WORLD_SIZE": f"{ranks}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        common |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, stage, ranks, last, zero_stage, int(lora)]
        processes = [
            subprocess.Popen(
                [str(part) for part in command],
                env=os.environ | common | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"},
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=(stage / f"{ranks}.{rank}.txt").open("w"),
            )
            for rank in range(ranks)
        ]
        codes = [process.wait(400) for process in processes]
        assert not any(codes), (stage / f"{ranks}.0.txt").read_text()[-2000:]
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    name = "adapter_model" if lora else "model"
    return rows, load_file(stage / "model" / f"{name}.safetensors")


def train_on_this_rank(stage: Path, ranks: int, last: int, zero_stage: int, lora: bool) -> None:
    """Train a tiny model on random tokens, as learners train theirs, up to a step."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from learners.common import hf_trainer, preemption
    from r2v_dist.config.learners import BCConfig, LoraConfig

    torch.distributed.init_process_group("gloo")
    preemption.LOOK_EVERY_S = float("inf")  # there is no Ray here to ask
    config = BCConfig.model_validate(
        {
            "learning_rate": 1e-3,
            "epochs": 1,
            "batch_size": 8,
            "micro_batch_size": 2,
            "save_every_steps": SAVED,
            "lora": LoraConfig(r=8, alpha=16, dropout=0.0) if lora else None,
            "deepspeed": {"ranks": ranks, "zero_stage": zero_stage},
        }
    )

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == last

    arguments = hf_trainer.trainer_arguments("bc", config, stage, 0) | {"logging_steps": 1}
    tokens = torch.randint(5, 800, (8 * STEPS, 32), generator=torch.Generator().manual_seed(0))
    model: Any = AutoModelForCausalLM.from_pretrained(
        ROOT / "models" / "textworld-tiny", **hf_trainer.model_arguments(config)
    )
    if lora:
        from peft import get_peft_model

        model = get_peft_model(model, hf_trainer.lora_adapter(config.lora))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[hf_trainer.recorder(stage), Stop()],
    )
    hf_trainer.train(trainer, stage)
    trainer.save_model(str(stage / "model"))
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:]
    train_on_this_rank(Path(folder), *(int(number) for number in numbers[:3]), numbers[3] == "1")
