"""Behaviour cloning (METHOD section 2): L = -E log pi(a* | x), on action tokens of successful teacher episodes only.

TRL's SFTTrainer and DeepSpeed do the training; here is the data, the launch and the published checkpoint, a plain
Hugging Face directory. Episodes are read in the order of their keys, so the result does not depend on who finished
first; training resumes from its last complete checkpoint.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learners.launch import append_metrics, deepspeed_arguments, require_deepspeed, run_ranks
from learners.transcripts import IGNORED, episode_sequence
from r2v_dist import rollout_store
from r2v_dist.chat import ChatFormat, Turn, opening_message
from r2v_dist.config import BCConfig
from r2v_dist.errors import RuntimeFailure

_COMPLETE = "complete"


@dataclass(frozen=True)
class BCJob:
    """What to learn from what; `model` is the checkpoint to start from."""

    rollouts: Path
    model: str
    system_prompt: str
    output: Path
    stage: Path
    seed: int
    config: BCConfig


def clone_behaviour(job: BCJob) -> None:
    """Train and publish `job.output`; returns when the checkpoint is complete."""
    run_ranks(_train_rank, {"job": job}, job.config.deepspeed, "bc", job.stage / "ray_train")
    if not (job.output / "config.json").is_file():
        raise RuntimeFailure(f"behaviour cloning ended without a checkpoint in {job.output}")
    shutil.rmtree(job.stage / "checkpoints", ignore_errors=True)


def build_dataset(rollouts: Path, chat: ChatFormat, max_length: int) -> Any:
    """Successful teacher episodes as `input_ids` and `labels` (IGNORED everywhere but on action tokens), one row an episode."""
    from datasets import Dataset

    columns = ["key", "t", "goal", "success", "observation", "action", "action_ids", "actor"]
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for episode in rollout_store.episodes_of(rollout_store.read(rollouts, columns)):
        if not episode[0]["success"]:
            continue
        users = [row["observation"] for row in episode]
        users[0] = opening_message(episode[0]["goal"], users[0])
        turns = [Turn(user, row["action"], row["actor"]) for user, row in zip(users, episode, strict=True)]
        sequence = episode_sequence(chat, turns, [True] * len(turns), max_length)
        rows["input_ids"].append(sequence.input_ids)
        rows["labels"].append([i if m else IGNORED for i, m in zip(sequence.input_ids, sequence.completion_mask, strict=True)])
    if not rows["input_ids"]:
        raise RuntimeFailure(f"{rollouts} holds no successful teacher episode to learn from")
    return Dataset.from_dict(rows)


def _train_rank(arguments: dict[str, Any]) -> None:
    """What every rank runs."""
    import torch
    import torch.distributed
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    job: BCJob = arguments["job"]
    config, world = job.config, torch.distributed.get_world_size()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    set_seed(job.seed)
    if config.batch_size % (config.micro_batch_size * world):
        raise RuntimeFailure(
            f"bc.batch_size = {config.batch_size}: must be a multiple of micro_batch_size x ranks = {config.micro_batch_size * world}"
        )
    training = SFTConfig(
        output_dir=str(job.stage / "checkpoints"),
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // (config.micro_batch_size * world),
        warmup_steps=config.warmup_share,
        lr_scheduler_type="cosine",
        weight_decay=0.01,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        bf16=config.bf16,
        fp16=False,
        gradient_checkpointing=config.gradient_checkpointing,
        logging_steps=5,
        save_steps=config.save_every_steps,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        seed=job.seed,
        data_seed=job.seed,
        **deepspeed_arguments(config),
    )
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=dtype)
    trainer = SFTTrainer(
        model=model,
        args=training,
        train_dataset=build_dataset(job.rollouts, ChatFormat(tokenizer, "slm", job.system_prompt), config.max_length),
        processing_class=tokenizer,
        peft_config=_lora(config),
        callbacks=[_recorder(job.stage / "metrics.jsonl", torch.distributed.get_rank() == 0)],
    )
    resumed = _last_complete(job.stage / "checkpoints")
    if torch.distributed.get_rank() == 0:
        _forget_metrics_after(job.stage / "metrics.jsonl", int(resumed.rpartition("-")[2]) if resumed else 0)
    trainer.train(resume_from_checkpoint=resumed)
    require_deepspeed(trainer)
    _publish(trainer, tokenizer, job, torch.distributed.get_rank() == 0)


def _lora(config: BCConfig) -> Any:
    if config.lora is None:
        return None
    from peft import LoraConfig

    lora = config.lora
    return LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear", task_type="CAUSAL_LM")


def _publish(trainer: Any, tokenizer: Any, job: BCJob, first_rank: bool) -> None:
    """Save next to the target and rename, so that a checkpoint is whole or absent."""
    import torch.distributed

    scratch = job.output.with_name(job.output.name + ".tmp")
    trainer.save_model(str(scratch))
    torch.distributed.barrier()
    if not first_rank:
        return
    if job.config.lora is not None:
        from peft import AutoPeftModelForCausalLM

        merged: Any = AutoPeftModelForCausalLM.from_pretrained(scratch).merge_and_unload()
        shutil.rmtree(scratch)
        merged.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    (scratch / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing of ours needs it
    shutil.rmtree(job.output, ignore_errors=True)
    scratch.rename(job.output)


def _last_complete(folder: Path) -> str | None:
    done = sorted(folder.glob(f"checkpoint-*/{_COMPLETE}"), key=lambda marker: int(marker.parent.name.rpartition("-")[2]))
    return str(done[-1].parent) if done else None


def _forget_metrics_after(path: Path, step: int) -> None:
    """Steps that are trained again are logged again."""
    if path.is_file():
        kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept))


def _recorder(path: Path, first_rank: bool) -> Any:
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc]
        """Writes metrics, and marks a checkpoint complete once everything in it is on disk."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if first_rank and logs and "loss" in logs:
                append_metrics(path, {"step": state.global_step, "of": state.max_steps, "epoch": logs["epoch"], "loss": logs["loss"]})

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if first_rank:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE).touch()

    return Recorder()
