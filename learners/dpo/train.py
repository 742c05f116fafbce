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
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypedDict, cast

import pyarrow as pa

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
from learners.dpo import pairs as preference_pairs
from learners.dpo.pairs import Pair
from r2v_dist import files
from r2v_dist.chat import ChatFormat
from r2v_dist.config.learners import DPOConfig
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.object_storage.mirror import at_hand, of, shown
from r2v_dist.storage.checkpoints import Checkpoint


@dataclass(frozen=True, kw_only=True)
class DPOJob(ModelJob):
    """What to prefer. `pairs` is a file of `learners.dpo.pairs`; `model` is the start and the
    reference.
    """

    learner: ClassVar[str] = "dpo"
    proof: ClassVar[str] = "tokenizer_config.json"

    pairs: Path
    config: DPOConfig
    start: Checkpoint | None = None
    """What `model` is, which was merged where this is an adapter; None for `model` itself."""


@dataclass(frozen=True)
class PairExamples:
    """How many pairs became examples, how many of these have a second view, and what did not fit
    `max_length`.
    """

    examples: int
    with_view: int
    pairs_too_long: int
    views_too_long: int


class Example(TypedDict):
    """A pair as token ids, the answers with their end of turn."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    view_prompt_ids: list[int]
    """Empty without a second view."""


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
        job.require()
        _save(dataset, counts, folder)
    counts = _counts(folder)
    run_job(job, _train_rank)
    files.remove(folder)
    return counts


def build_dataset(table: pa.Table, chat: ChatFormat, max_length: int) -> tuple[Any, PairExamples]:
    """Pairs as examples.

    Raises RuntimeFailure when no pair is left.
    """
    from datasets import Dataset

    rows: dict[str, list[list[int]]] = {name: [] for name in Example.__annotations__}
    pairs_too_long = views_too_long = 0
    for pair in preference_pairs.pairs_of(table):
        example = example_of(pair, chat, max_length)
        if example is None:
            pairs_too_long += 1
            continue
        views_too_long += pair.view is not None and not example["view_prompt_ids"]
        for name, ids in example.items():
            rows[name].append(cast(list[int], ids))
    if not rows["prompt_ids"]:
        raise RuntimeFailure(
            f"no preference pair to learn from: {len(table)} pairs, {pairs_too_long} of them "
            f"longer than {max_length} tokens"
        )
    with_view = sum(map(bool, rows["view_prompt_ids"]))
    return Dataset.from_dict(rows), PairExamples(
        len(rows["prompt_ids"]), with_view, pairs_too_long, views_too_long
    )


def example_of(pair: Pair, chat: ChatFormat, max_length: int) -> Example | None:
    """A pair as token ids, None where it does not fit; a second view that does not fit is empty."""
    end = chat.end_of_turn()
    prompt = chat.prompt(pair.history, pair.user)
    chosen = chat.action_ids(pair.chosen) + end
    rejected = chat.action_ids(pair.rejected) + end
    if len(prompt) + max(len(chosen), len(rejected)) > max_length:
        return None
    view = chat.prompt(pair.view.history, pair.view.user) if pair.view else []
    if len(view) + len(chosen) > max_length:
        view = []
    return {
        "prompt_ids": prompt,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "view_prompt_ids": view,
    }


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
        **trainer_arguments("dpo", config, job.stage, job.seed, job.report_to),
    )
    set_precision(training, config)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, **model_arguments(config))
    require_sharded(model, config)
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
        callbacks=[recorder(job.stage, *MEASURES, fence=job.fence)],
        loss=config,
        view_share=counts.with_view / counts.examples,
    )
    train(trainer, job.stage)
    publish(trainer, tokenizer, job, finish=partial(_own, job))


def _own(job: DPOJob, folder: Path) -> None:
    start = job.start or Checkpoint(job.model, "")
    if start.adapter:
        at_hand(Path(start.adapter))
    own_adapter(folder, start.path, start.adapter)
