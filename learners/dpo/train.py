"""Verifier-guided DPO with consistency (docs/method.md, section 4), from preference pairs to a
published checkpoint.

The reference is the checkpoint that training starts from, and its log-probabilities are computed
once. Sampled token ids are used as they are, prompts are never truncated: a pair that does not fit
is left out and counted.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from learners.common.hf_trainer import (
    lora_adapter,
    merge_of,
    model_arguments,
    publish,
    recorder,
    train,
    trainer_arguments,
)
from learners.common.jobs import ModelJob, run_job
from learners.dpo import pairs as preference_pairs
from learners.dpo.pairs import Pair
from r2v_dist import files
from r2v_dist.chat import ChatFormat
from r2v_dist.config.learners import DPOConfig
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.mirror import at_hand, of, shown


@dataclass(frozen=True, kw_only=True)
class DPOJob(ModelJob):
    """What to prefer. `pairs` is a file of `learners.dpo.pairs`; `model` is the start and the
    reference.
    """

    learner: ClassVar[str] = "dpo"
    proof: ClassVar[str] = "config.json"

    pairs: Path
    config: DPOConfig


@dataclass(frozen=True)
class PairExamples:
    """How many pairs became examples, how many of these have a second view, and what did not fit
    `max_length`.
    """

    examples: int
    with_view: int
    pairs_too_long: int
    views_too_long: int


def learn_preferences(job: DPOJob) -> PairExamples:
    """Train and publish `job.output`; returns when the checkpoint is complete.

    Raises RuntimeFailure with the first cause when the ranks fail, or when there is no pair to
    learn from.
    """
    from transformers import AutoTokenizer

    folder = job.stage / "examples"
    if not folder.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(job.model)
        chat = ChatFormat(tokenizer, "slm", job.system_prompt, job.template_settings)
        dataset, counts = build_dataset(
            preference_pairs.load(job.pairs), chat, job.config.max_length
        )
        _save(dataset, counts, folder)
    counts = _counts(folder)
    run_job(job, _train_rank)
    files.remove(folder)
    return counts


def build_dataset(table: pa.Table, chat: ChatFormat, max_length: int) -> tuple[Any, PairExamples]:
    """Pairs as token ids: `prompt_ids`, `chosen_ids`, `rejected_ids` (end of turn included),
    `view_prompt_ids` (empty: none).

    Raises RuntimeFailure when no pair is left.
    """
    from datasets import Dataset

    rows: dict[str, list[list[int]]] = {
        "prompt_ids": [],
        "chosen_ids": [],
        "rejected_ids": [],
        "view_prompt_ids": [],
    }
    pairs_too_long = views_too_long = 0
    for pair in preference_pairs.pairs_of(table):
        prompt, view, chosen, rejected = _ids(pair, chat)
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            pairs_too_long += 1
            continue
        if view and len(view) + len(chosen) > max_length:
            views_too_long += 1
            view = []
        for name, ids in zip(rows, (prompt, chosen, rejected, view), strict=True):
            rows[name].append(ids)
    if not rows["prompt_ids"]:
        raise RuntimeFailure(
            f"no preference pair to learn from: {len(table)} pairs, {pairs_too_long} of them "
            f"longer than {max_length} tokens"
        )
    with_view = sum(map(bool, rows["view_prompt_ids"]))
    return Dataset.from_dict(rows), PairExamples(
        len(rows["prompt_ids"]), with_view, pairs_too_long, views_too_long
    )


def _ids(pair: Pair, chat: ChatFormat) -> tuple[list[int], list[int], list[int], list[int]]:
    """Prompt, second view's prompt, a+ and a-."""
    end = chat.end_of_turn()
    view = chat.prompt(pair.view.history, pair.view.user) if pair.view else []
    return (
        chat.prompt(pair.history, pair.user),
        view,
        chat.action_ids(pair.chosen) + end,
        chat.action_ids(pair.rejected) + end,
    )


def _save(dataset: Any, counts: PairExamples, folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()  # the run shows its own
    # On disk, since all ranks share one file of reference log-probabilities beside it.
    scratch = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    dataset.save_to_disk(str(scratch))
    (scratch / "counts.json").write_text(json.dumps(asdict(counts)), encoding="utf-8")
    files.publish(scratch, folder)


def _counts(folder: Path) -> PairExamples:
    return PairExamples(**files.read_json_object(folder / "counts.json"))


def _require_shared_storage(job: DPOJob) -> None:
    """Raises UsageError where the file of reference log-probabilities is not every rank's."""
    apart = os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE")
    if apart and of(job.stage):
        raise UsageError(
            f"run_dir = {shown(job.stage.parents[1])}: dpo's ranks are on several nodes, and share "
            f"a file; set dpo.deepspeed.ranks to what one node holds, or run_dir to a path on "
            f"storage that every node sees"
        )


def _train_rank(job: DPOJob) -> None:
    """What every rank runs."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig as TrlArguments

    from learners.common.packing import can_share_prompt
    from learners.dpo.collator import PairCollator
    from learners.dpo.trainer import MEASURES, PreferenceTrainer

    config = job.config
    _require_shared_storage(job)
    datasets.disable_progress_bars()
    training = TrlArguments(
        beta=config.beta,
        max_length=None,
        precompute_ref_log_probs=True,
        **trainer_arguments("dpo", config, job.stage, job.seed),
    )
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, **model_arguments(config))
    examples = datasets.load_from_disk(str(at_hand(job.stage / "examples")))
    counts = _counts(job.stage / "examples")
    pad_id = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
    trainer = PreferenceTrainer(
        model=model,
        args=training,
        train_dataset=examples,
        data_collator=PairCollator(
            pad_id, views=config.beta_c > 0, share_prompt=can_share_prompt(model)
        ),
        processing_class=tokenizer,
        peft_config=lora_adapter(config.lora),
        callbacks=[recorder(job.stage, *MEASURES)],
        loss=config,
        view_share=counts.with_view / counts.examples,
    )
    train(trainer, job.stage)
    publish(trainer, tokenizer, job.output, merge_of(config.lora))
