"""Learning V(x, a) from branch values (docs/method.md, section 3): soft labels, BCE plus a pairwise
term inside each state.

A backbone with a scalar head, trained by the Hugging Face trainer and DeepSpeed under Ray Train; V
is then calibrated by isotonic regression on validation states. V reads the conversation and the
candidate, as the deployed agent has them.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from learners.common.hf_trainer import lora_adapter, publish, recorder, train, trainer_arguments
from learners.common.packing import AnswerRow
from learners.common.ray_train import run_ranks
from r2v_dist import files
from r2v_dist.chat import ChatFormat
from r2v_dist.config.verifier import VerifierTrainingConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.labels import branch_values
from r2v_dist.labels.branch_values import BranchValue
from r2v_dist.router.calibration import fit_centred_isotonic
from r2v_dist.verifier.metrics import VerifierMetrics, verifier_curves, verifier_metrics


@dataclass(frozen=True)
class VerifierJob:
    """What to learn from what. `values` and `validation` are branch-value files; `model` is the
    backbone, with its tokenizer.

    `stage` is the scratch folder of this job alone: a job that is started again goes on with what
    it finds there.
    """

    values: Path
    validation: Path
    model: str
    system_prompt: str
    output: Path
    stage: Path
    seed: int
    config: VerifierTrainingConfig
    template_settings: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the chat template."""


def learn_verifier(job: VerifierJob) -> VerifierMetrics:
    """Train, calibrate and publish `job.output`; the metrics are those of uncalibrated V on the
    validation states.

    Raises RuntimeFailure with the first cause when the ranks fail, or when there is no state to
    learn from.
    """
    run_ranks(_train_rank, {"job": job}, job.config.deepspeed, "verifier", job.stage / "ray_train")
    saved = job.output / "verifier.json"
    if not saved.is_file():
        raise RuntimeFailure(f"verifier learning ended without a checkpoint in {job.output}")
    shutil.rmtree(job.stage / "checkpoints", ignore_errors=True)
    return VerifierMetrics(**files.read_json_object(saved)["validation"])


def state_row(
    candidates: Sequence[BranchValue], chat: ChatFormat, max_length: int
) -> AnswerRow | None:
    """One state's prompt and its candidates (end of turn included); None when the longest does not
    fit.
    """
    end = chat.end_of_turn()
    prompt = chat.prompt(candidates[0].history, candidates[0].user)
    answers = tuple(chat.action_ids(row.turn) + end for row in candidates)
    return (
        AnswerRow(prompt, answers) if len(prompt) + max(map(len, answers)) <= max_length else None
    )


def score_table(
    path: Path,
    table: pa.Table,
    system_prompt: str,
    template_settings: Mapping[str, Any] | None = None,
    max_tokens: int = 8192,
) -> npt.NDArray[np.float64]:
    """V of every row of a branch-value table, in its order, by a published verifier."""
    from transformers import AutoTokenizer

    from learners.verifier.network import ValueModel

    chat = ChatFormat(AutoTokenizer.from_pretrained(path), "slm", system_prompt, template_settings)
    rows = list(branch_values.rows_of(table))
    members: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row.key, []).append(index)
    states = [state_row([rows[i] for i in indices], chat, 10**9) for indices in members.values()]
    scored = ValueModel(path, max_tokens).score([state for state in states if state])
    scores = np.empty(len(rows))
    for indices, values in zip(members.values(), scored, strict=True):
        scores[indices] = values
    return scores


def measure(scores: npt.NDArray[np.float64], table: pa.Table) -> VerifierMetrics:
    """Metrics of given scores of a branch-value table's rows."""
    _, group = np.unique(np.asarray(table["key"].to_pylist()), return_inverse=True)
    return verifier_metrics(
        scores, branch_values.values(table), table["n"].to_numpy().astype(np.float64), group
    )


def build_dataset(table: pa.Table, chat: ChatFormat, max_length: int) -> Any:
    """One example a state: `prompt_ids`, `answer_ids` (a list per candidate) and `values`. Raises
    RuntimeFailure when none fits.
    """
    from datasets import Dataset

    columns: dict[str, list[Any]] = {"prompt_ids": [], "answer_ids": [], "values": []}
    for candidates in branch_values.states_of(table):
        if row := state_row(candidates, chat, max_length):
            columns["prompt_ids"].append(row.prompt)
            columns["answer_ids"].append(list(row.answers))
            columns["values"].append([candidate.value for candidate in candidates])
    if not columns["values"]:
        raise RuntimeFailure(
            f"no state to learn a verifier from: {len(table)} branch values, none fits "
            f"{max_length} tokens"
        )
    return Dataset.from_dict(columns)


def _train_rank(arguments: dict[str, Any]) -> None:
    """What every rank runs."""
    import torch
    from transformers import AutoTokenizer, TrainingArguments

    from learners.verifier.trainer import MEASURES, VerifierTrainer, load_backbone

    job: VerifierJob = arguments["job"]
    config = job.config
    training = TrainingArguments(
        **trainer_arguments("verifier.training", config, job.stage, job.seed)
    )
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    chat = ChatFormat(tokenizer, "slm", job.system_prompt, job.template_settings)
    model = load_backbone(job.model, torch.bfloat16 if config.bf16 else torch.float32)
    merge = None
    if config.lora is not None:
        from peft import PeftModel, get_peft_model

        dtype = model.dtype
        model = get_peft_model(
            model, lora_adapter(config.lora, "TOKEN_CLS", without=("score", "classifier"))
        )

        def merge(folder: Path) -> Any:
            return PeftModel.from_pretrained(load_backbone(job.model, dtype), folder)

    trainer = VerifierTrainer(
        model=model,
        args=training,
        train_dataset=build_dataset(branch_values.load(job.values), chat, config.max_length),
        processing_class=tokenizer,
        callbacks=[recorder(job.stage, *MEASURES)],
        pairwise_weight=config.pairwise_weight,
    )
    train(trainer, job.stage)
    publish(trainer, tokenizer, job.output, merge, finish=lambda folder: _calibrate(folder, job))


def _calibrate(folder: Path, job: VerifierJob) -> None:
    """Fit the calibration on validation states and put it beside the weights."""
    table = branch_values.load(job.validation)
    scores = score_table(folder, table, job.system_prompt, job.template_settings)
    weights = table["n"].to_numpy().astype(np.float64)
    values = branch_values.values(table)
    calibration = fit_centred_isotonic(scores, values, weights)
    curves = verifier_curves(scores, values, weights)
    saved = {
        "calibration": calibration.to_json(),
        "validation": asdict(measure(scores, table)),
        "curves": curves,
    }
    (folder / "verifier.json").write_text(json.dumps(saved), encoding="utf-8")
