"""Behaviour cloning (docs/method.md, section 2): L = -E log pi(a* | x), on action tokens of
successful teacher episodes only.

TRL's SFTTrainer and DeepSpeed do the training; here is the data, the launch and the published
checkpoint, a Hugging Face directory: the model, or with `lora` an adapter to it. Episodes are read
in the order of their keys, so the result does not depend on who finished first; training resumes
from its last complete checkpoint.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from learners.common.adapters import own_adapter
from learners.common.hf_trainer import (
    lora_adapter,
    model_arguments,
    publish,
    recorder,
    require_sharded,
    set_precision,
    train,
    trainer_arguments,
)
from learners.common.jobs import ModelJob, run_job
from learners.common.sequences import IGNORED, episode_sequence
from r2v_dist.chat import ChatFormat, Turn, opening_message
from r2v_dist.config.learners import BCConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.storage import rollouts as rollout_store


@dataclass(frozen=True, kw_only=True)
class BCJob(ModelJob):
    """What to clone: the successful teacher episodes in `rollouts`."""

    learner: ClassVar[str] = "bc"
    proof: ClassVar[str] = "tokenizer_config.json"

    rollouts: Path
    config: BCConfig


def clone_behaviour(job: BCJob) -> None:
    """Train and publish `job.output`; returns when the checkpoint is complete."""
    run_job(job, train_rank)


def build_dataset(rollouts: Path, chat: ChatFormat, max_length: int) -> Any:
    """Successful teacher episodes as `input_ids` and `labels` (IGNORED everywhere but on action
    tokens), one row an episode.
    """
    from datasets import Dataset

    columns = ["key", "t", "goal", "success", "observation", "action", "action_ids", "actor"]
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for episode in rollout_store.episodes_of(rollout_store.read(rollouts, columns)):
        if not episode[0]["success"]:
            continue
        turns = [Turn(row["observation"], row["action"], row["actor"]) for row in episode]
        opening = opening_message(episode[0]["goal"], episode[0]["observation"])
        turns[0] = replace(turns[0], user=opening)
        sequence = episode_sequence(chat, turns, [True] * len(turns), max_length)
        tokens = zip(sequence.input_ids, sequence.completion_mask, strict=True)
        rows["input_ids"].append(sequence.input_ids)
        rows["labels"].append([token if counts else IGNORED for token, counts in tokens])
    if not rows["input_ids"]:
        raise RuntimeFailure(f"{rollouts} holds no successful teacher episode to learn from")
    return Dataset.from_dict(rows)


def train_rank(job: BCJob) -> None:
    """What every rank runs."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig

    from learners.behaviour_cloning.trainer import CloningTrainer

    config = job.config
    training = SFTConfig(
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        padding_free=config.padding_free,
        train_sampling_strategy="batch_rebalance",
        **trainer_arguments("bc", config, job.stage, job.seed, job.report_to),
    )
    set_precision(training, config)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    chat = ChatFormat(tokenizer, "slm", job.system_prompt, job.template_settings)
    model = AutoModelForCausalLM.from_pretrained(job.model, **model_arguments(config))
    require_sharded(model, config)
    trainer = CloningTrainer(
        model=model,
        args=training,
        train_dataset=build_dataset(job.rollouts, chat, config.max_length),
        processing_class=tokenizer,
        peft_config=lora_adapter(config.lora),
        callbacks=[recorder(job.stage, "num_tokens", fence=job.fence)],
    )
    train(trainer, job.stage)
    publish(trainer, tokenizer, job, finish=lambda folder: own_adapter(folder, job.model))
