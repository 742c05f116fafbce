"""Learning V(x, a) from branch values (docs/method.md, section 3): soft labels, BCE plus a pairwise
term inside each state.

A backbone with a scalar head, trained by the Hugging Face trainer and DeepSpeed under Ray Train; V
is then calibrated by isotonic regression on validation states, once the ranks and what they hold
are gone. V reads the conversation and the candidate, as the deployed agent has them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
from learners.common.packing import AnswerRow
from learners.common.scoring import Scorer, ScoreRows, Scores, in_this_process
from r2v_dist import files
from r2v_dist.chat import ChatFormat
from r2v_dist.config.verifier import VerifierTrainingConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.labels import branch_values
from r2v_dist.labels.branch_values import BranchValue
from r2v_dist.object_storage.mirror import at_hand
from r2v_dist.router.calibration import fit_centred_isotonic
from r2v_dist.verifier.metrics import VerifierMetrics, verifier_curves, verifier_metrics

if TYPE_CHECKING:
    from learners.verifier.network import ValueModel

_RESULT = "verifier.json"


@dataclass(frozen=True, kw_only=True)
class VerifierJob(ModelJob):
    """What to learn V from. `values` and `validation` are branch-value files; `model` is the
    backbone.
    """

    learner: ClassVar[str] = "verifier"
    proof: ClassVar[str] = "config.json"

    values: Path
    validation: Path
    config: VerifierTrainingConfig


def learn_verifier(job: VerifierJob, score: ScoreRows = in_this_process) -> VerifierMetrics:
    """Train, calibrate and publish `job.output`; the metrics are those of uncalibrated V on the
    validation states.

    Raises RuntimeFailure with the first cause when the ranks fail, or when there is no state to
    learn from.
    """
    model_folder = job.stage / "trained"
    if not model_folder.is_dir():
        run_job(replace(job, output=model_folder), _train_rank)
    _calibrate(model_folder, job, score)
    job.require()
    files.publish(model_folder, job.output)
    return VerifierMetrics(**files.read_json_object(job.output / _RESULT)["validation"])


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


@dataclass(frozen=True)
class PublishedVerifier:
    """Called, it loads the checkpoint and gives V of the rows of branch-value tables.

    Args:
        max_tokens: of a forward pass, padding included.
    """

    path: Path
    system_prompt: str
    template_settings: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 8192

    def __call__(self) -> Scorer:
        from transformers import AutoTokenizer

        from learners.verifier.network import ValueModel

        tokenizer = AutoTokenizer.from_pretrained(at_hand(self.path))
        chat = ChatFormat(tokenizer, "slm", self.system_prompt, self.template_settings)
        model = ValueModel(self.path, self.max_tokens)
        return lambda table: _scores(model, chat, table)


def _scores(model: "ValueModel", chat: ChatFormat, table: pa.Table) -> Scores:
    rows = list(branch_values.rows_of(table))
    members: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row.key, []).append(index)
    states = [state_row([rows[i] for i in indices], chat, 10**9) for indices in members.values()]
    state_values = model.score([state for state in states if state])
    scores = np.empty(len(rows))
    for indices, values in zip(members.values(), state_values, strict=True):
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


def _train_rank(job: VerifierJob) -> None:
    """What every rank runs."""
    from transformers import AutoTokenizer, TrainingArguments

    from learners.verifier.trainer import MEASURES, VerifierTrainer, load_backbone

    config = job.config
    training = TrainingArguments(
        **trainer_arguments("verifier.training", config, job.stage, job.seed, job.report_to)
    )
    set_precision(training, config)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    chat = ChatFormat(tokenizer, "slm", job.system_prompt, job.template_settings)
    model = load_backbone(job.model, **model_arguments(config))
    require_sharded(model, config)
    merge = None
    if config.lora is not None:
        from peft import PeftModel, get_peft_model

        dtype = model.dtype
        model = get_peft_model(
            model, lora_adapter(config.lora, "TOKEN_CLS", without=("score", "classifier"))
        )

        def merge(folder: Path) -> Any:
            return PeftModel.from_pretrained(load_backbone(job.model, dtype=dtype), folder)

    trainer = VerifierTrainer(
        model=model,
        args=training,
        train_dataset=build_dataset(branch_values.load(job.values), chat, config.max_length),
        processing_class=tokenizer,
        callbacks=[recorder(job.stage, *MEASURES, fence=job.fence)],
        pairwise_weight=config.pairwise_weight,
    )
    train(trainer, job.stage)
    publish(trainer, tokenizer, job, merge)


def _calibrate(folder: Path, job: VerifierJob, score: ScoreRows) -> None:
    """Fit the calibration on validation states and put it beside the weights."""
    table = branch_values.load(job.validation)
    (folder / _RESULT).unlink(missing_ok=True)  # of an attempt that ended here
    uncalibrated = PublishedVerifier(folder, job.system_prompt, job.template_settings)
    scores = score("scores of validation states", uncalibrated, table)
    weights = table["n"].to_numpy().astype(np.float64)
    values = branch_values.values(table)
    calibration = fit_centred_isotonic(scores, values, weights)
    curves = verifier_curves(scores, values, weights)
    result = {
        "calibration": calibration.to_json(),
        "validation": asdict(measure(scores, table)),
        "curves": curves,
    }
    files.write_atomically(folder / _RESULT, json.dumps(result))
