"""The reference of `benchmarks.learner`: stock TRL trainers, in a process of their own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import worker_niceness
from learners.common.hf_trainer import LOGGED_EVERY
from r2v_dist.config.learners import LearnerConfig


def run_stock(kind: str, stage: Path) -> None:
    """The reference in a process of its own."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.learner",
        "--stock",
        kind,
        "--folder",
        str(stage),
    ]
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"},
    )


def write_settings(folder: Path, model: Path, config: LearnerConfig, **more: Any) -> None:
    """Write which model the reference trains, and the trainers' arguments."""
    arguments = {
        "per_device_train_batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "warmup_steps": config.warmup_share,
        **more,
    }
    settings = {"model": str(model), "arguments": arguments}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


def train_stock(kind: str, stage: Path) -> None:
    """The reference's process: TRL's trainer on token ids, with no code of ours but the clock."""
    # On a busy machine the reference must not be served before Ray's workers.
    os.nice(worker_niceness())
    import torch
    import transformers
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig as DPOArguments
    from trl import DPOTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()

    class StockDPO(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            # it holds token ids already, which this version can only be told by a subclass
            return dataset

    settings = json.loads((stage.parent / "settings.json").read_text(encoding="utf-8"))
    model = settings["model"]
    shared = _arguments(stage) | settings["arguments"]
    objects = {
        "model": AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        "train_dataset": load_from_disk(str(stage.parent / "data")),
        "processing_class": tokenizer(model),
        "callbacks": [_clock(stage / "metrics.jsonl")],
    }
    if kind == "bc":
        sft = SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **shared)
        SFTTrainer(args=sft, **objects).train()
    else:
        dpo = DPOArguments(beta=0.1, precompute_ref_log_probs=True, **shared)
        StockDPO(args=dpo, **objects).train()


def _clock(metrics: Path) -> Any:
    """A callback that logs step, seconds and loss as JSON lines."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" not in logs:
                return
            seconds = time.monotonic() - self.started
            row = {"step": state.global_step, "seconds": seconds, "loss": logs["loss"]}
            with metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    return Clock()


def _arguments(stage: Path) -> dict[str, Any]:
    """The arguments that both trainers share."""
    return {
        "output_dir": str(stage / "out"),
        "save_strategy": "no",
        "logging_steps": LOGGED_EVERY,
        "report_to": [],
        "disable_tqdm": True,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.01,
        "seed": 0,
        "data_seed": 0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "max_length": None,
    }


def tokenizer(model: str | Path) -> Any:
    """Of the model that is trained."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)
