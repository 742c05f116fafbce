"""What every learner's ranks share: trainer arguments, resuming, metrics, and the published
checkpoint.

A checkpoint is whole or absent: training checkpoints are marked once everything in them is on disk,
and a published one is renamed into place. Steps that are trained again are logged again, never
twice.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from learners.common.deepspeed_setup import deepspeed_arguments, require_deepspeed
from learners.common.jobs import LearnerJob
from learners.common.other_ranks import prepare
from learners.common.preemption import may_be_announced, preemption_watch
from learners.common.remote_checkpoints import COMPLETE, METRICS, keep, step_of
from r2v_dist import files
from r2v_dist.config.learners import LearnerConfig, LoraConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.object_storage import mirror as mirrors
from r2v_dist.storage.fence import Fence
from r2v_dist.storage.metrics_log import append_metrics

LOGGED_EVERY = 5
"""Optimizer steps of a line of metrics."""


def trainer_arguments(
    name: str, config: LearnerConfig, stage: Path, seed: int, report_to: Sequence[str] = ()
) -> dict[str, Any]:
    """Arguments of a Hugging Face trainer. Call on every rank, and before the model is loaded
    (ZeRO-3 shards while loading).

    Raises RuntimeFailure when the batch cannot be divided among the ranks.
    """
    import torch.distributed
    import transformers
    from transformers import set_seed

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    set_seed(seed)
    together = config.micro_batch_size * torch.distributed.get_world_size()
    if config.batch_size % together:
        raise RuntimeFailure(
            f"{name}.batch_size = {config.batch_size}: must be a multiple of micro_batch_size x "
            f"ranks = {together}"
        )
    # By default the log would be among the checkpoints, which do not stay.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(stage / "tensorboard"))
    checkpoint = _last_complete(stage / "checkpoints")
    way = prepare(checkpoint, config.deepspeed, name) if checkpoint else "again"
    return {
        "output_dir": str(stage / "checkpoints"),
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.batch_size // together,
        "warmup_steps": config.warmup_share,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.01,
        "remove_unused_columns": False,
        "bf16": config.bf16 and torch.cuda.is_available(),  # see `set_precision`
        "fp16": False,
        "gradient_checkpointing": config.gradient_checkpointing,
        "logging_steps": LOGGED_EVERY,
        "save_steps": config.save_every_steps,
        "save_total_limit": 2,
        "report_to": list(report_to),
        "run_name": f"{Path(mirrors.shown(stage.parent.parent)).name} {stage.name}",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
        **deepspeed_arguments(config.deepspeed, way == "universal"),
    }


def set_precision(arguments: Any, config: LearnerConfig) -> None:
    """Have DeepSpeed train in bfloat16 on CPUs too, where Hugging Face's arguments refuse it. Call
    when these are made, before the trainer is.
    """
    import torch

    if config.bf16 and not torch.cuda.is_available():
        arguments.hf_deepspeed_config.config["bf16"] = {"enabled": True}


def model_arguments(config: LearnerConfig) -> dict[str, Any]:
    """How the model to train is loaded."""
    import torch

    arguments: dict[str, Any] = {"dtype": torch.bfloat16 if config.bf16 else torch.float32}
    if config.attention != "auto":
        arguments["attn_implementation"] = config.attention
    return arguments


def lora_adapter(
    config: LoraConfig | None, task: str = "CAUSAL_LM", without: tuple[str, ...] = ()
) -> Any:
    """The adapter's configuration, None for full-parameter training.

    Args:
        task: PEFT's name of the model's kind.
        without: linear layers that are trained themselves (a new head) and get no adapter.
    """
    if config is None:
        return None
    from peft import LoraConfig as Adapter

    return Adapter(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        exclude_modules=list(without) or None,
        task_type=task,
    )


def require_sharded(model: Any, config: LearnerConfig) -> None:
    """Raise RuntimeFailure where ZeRO-3 did not divide the parameters while they were loaded, so
    that every rank holds the whole model. Call right after loading.
    """
    if config.deepspeed.zero_stage != 3:
        return
    unsharded = [
        name for name, parameter in model.named_parameters() if not hasattr(parameter, "ds_id")
    ]
    if unsharded:
        raise RuntimeFailure(
            f"{unsharded[0]} was loaded whole on every rank, where ZeRO-3 divides parameters"
        )


def train(trainer: Any, stage: Path) -> None:
    """Train from the last complete checkpoint in `stage` to the end. Raises RuntimeFailure unless
    DeepSpeed did it.
    """
    import torch.distributed

    checkpoint = _last_complete(stage / "checkpoints")
    step = step_of(checkpoint.name) if checkpoint else 0
    if torch.distributed.get_rank() == 0:
        _forget_metrics_after(stage / METRICS, step)
    trainer.add_callback(_epochs_told())
    if may_be_announced():
        # Before the recorder, which asks whether this driver may still save.
        trainer.callback_handler.callbacks.insert(0, preemption_watch())
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    require_deepspeed(trainer)


def publish(
    trainer: Any,
    tokenizer: Any,
    job: LearnerJob,
    merge: Any = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Save a Hugging Face directory next to the job's output and rename it: a plain one, or PEFT's
    where an adapter was trained.

    Args:
        merge: loads a folder with an adapter as a PEFT model, which is then merged; None publishes
        the adapter alone. finish: adds to the folder before it is published, on the first rank
        only.

    Raises Superseded where another driver has taken over.
    """
    import torch.distributed
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    scratch = job.scratch
    if hasattr(trainer.model, "peft_config"):
        _save_adapter(trainer.model, scratch)
    else:
        trainer.save_model(str(scratch))
    torch.distributed.barrier()
    if torch.distributed.get_rank() != 0:
        return
    # Under ZeRO-3 this rank would load models in shards, and wait for ever for ranks that are done.
    unset_hf_deepspeed_config()
    if merge is not None:
        merged_model: Any = merge(scratch).merge_and_unload()
        shutil.rmtree(scratch)
        merged_model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    for needless in ("training_args.bin", "README.md"):  # a pickle, and an empty form
        (scratch / needless).unlink(missing_ok=True)
    if finish is not None:
        finish(scratch)
    job.require()
    files.publish(scratch, job.output)


def _save_adapter(model: Any, folder: Path) -> None:
    """Save what was trained beside the model, and gather nothing else of it under ZeRO-3."""
    import torch.distributed

    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with _gathered(list(parameters.values())):
        if torch.distributed.get_rank() == 0:
            state = {name: value.detach().cpu().clone() for name, value in parameters.items()}
            model.save_pretrained(folder, state_dict=state)


def _gathered(parameters: list[Any]) -> contextlib.AbstractContextManager[Any]:
    """Every rank holds these parameters whole inside the block."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return contextlib.nullcontext()
    import deepspeed

    context: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(parameters)
    return context


def recorder(stage: Path, *measures: str, fence: Fence | None = None) -> Any:
    """A callback that logs progress, loss and the named measures, and marks checkpoints complete.

    `seconds` are counted from where this attempt started to train. With a fence training ends with
    Superseded, before it logs or saves anything, where another driver has taken over.
    """
    import torch.distributed
    from transformers import TrainerCallback

    first_rank = torch.distributed.get_rank() == 0

    class Recorder(TrainerCallback):  # type: ignore[misc]
        """Writes on the first rank only."""

        started = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # On every rank: one that is left alone would wait for the others.
            if fence is not None and (control.should_log or control.should_save):
                fence.require()

        def on_log(
            self,
            args: Any,
            state: Any,
            control: Any,
            logs: dict[str, float] | None = None,
            **_: Any,
        ) -> None:
            if first_rank and logs and "loss" in logs:
                row = {
                    "step": state.global_step,
                    "of": state.max_steps,
                    "epoch": logs["epoch"],
                    "loss": logs["loss"],
                    "seconds": round(time.monotonic() - self.started, 3),
                }
                row |= {name: logs[name] for name in measures}
                append_metrics(stage / METRICS, row)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if mirrors.of(checkpoint):
                keep(checkpoint, args)
            elif first_rank:
                (checkpoint / COMPLETE).touch()

    return Recorder()


def _epochs_told() -> Any:
    """A callback that tells the samplers which epoch begins. A loader that skips what was trained
    before hides them, so that training that goes on in a later epoch would draw the first one's
    order again: examples twice, and others never.
    """
    from transformers import TrainerCallback

    class EpochsTold(TrainerCallback):  # type: ignore[misc]
        """Every rank has it."""

        def on_epoch_begin(
            self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any
        ) -> None:
            tell_epoch(train_dataloader, int(state.epoch or 0))

    return EpochsTold()


def tell_epoch(loader: Any, epoch: int) -> None:
    """Tell every sampler behind a loader which epoch is drawn next."""
    sampler = getattr(loader, "batch_sampler", None)
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)


def _last_complete(folder: Path) -> Path | None:
    complete = [marker.parent for marker in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda checkpoint: step_of(checkpoint.name), default=None)


def _forget_metrics_after(path: Path, step: int) -> None:
    if path.is_file():
        rows = files.read_json_lines(path)
        lines = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
        files.write_atomically(path, "".join(lines))
