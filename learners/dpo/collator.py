"""Pairs as tensors: both answers of a pair share one reading of the prompt where the model allows
it.

A second view of the state is a row of its own, `prompt' | a+`. Padding is on the left, so that the
answers' logits are at the end of every row whatever the prompts' lengths; every answer token knows
the position whose logits predict it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learners.common.packing import AnswerRow, RowTensors, row_tensors

_MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


@dataclass
class PairCollator:
    """Examples with `prompt_ids`, `chosen_ids`, `rejected_ids`, `view_prompt_ids` (empty: no second
    view) to a batch.

    The batch holds the model's inputs [R, T]; for N answers in the order chosen (B), rejected (B),
    second views (C) their
    `row_N`, `source_NA` (position whose logits predict the token), `target_NA` and `mask_NA`;
    `viewed_C`, the pairs that the second views belong to; and reference log-probabilities [B] where
    the examples have them.
    """

    pad_id: int
    views: bool
    share_prompt: bool

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate."""
        rows, order = self._pair_rows(examples)
        viewed = [i for i, e in enumerate(examples) if self.views and e["view_prompt_ids"]]
        for i in viewed:
            order.append((len(rows), 0))
            rows.append(AnswerRow(examples[i]["view_prompt_ids"], (examples[i]["chosen_ids"],)))

        tensors = row_tensors(rows, self.pad_id, pad_left=True, own_mask=self.share_prompt)
        batch = {
            "input_ids": tensors.ids_RT,
            "attention_mask": tensors.mask,
            "position_ids": tensors.positions_RT,
            "viewed_C": torch.tensor(viewed, dtype=torch.long),
        }
        batch |= _answers(rows, order, tensors)
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in examples[0]:
                batch[name] = torch.tensor([e[name] for e in examples])
        return batch

    def _pair_rows(
        self, examples: Sequence[dict[str, Any]]
    ) -> tuple[list[AnswerRow], list[tuple[int, int]]]:
        """Rows, and the places (row, answer) of the chosen answers, then of the rejected ones."""
        pairs = len(examples)
        if self.share_prompt:
            rows = [
                AnswerRow(e["prompt_ids"], (e["chosen_ids"], e["rejected_ids"])) for e in examples
            ]
            chosen = [(i, 0) for i in range(pairs)]
            rejected = [(i, 1) for i in range(pairs)]
            return rows, chosen + rejected
        rows = [AnswerRow(e["prompt_ids"], (e["chosen_ids"],)) for e in examples]
        rows += [AnswerRow(e["prompt_ids"], (e["rejected_ids"],)) for e in examples]
        return rows, [(i, 0) for i in range(2 * pairs)]


def _answers(
    rows: Sequence[AnswerRow], order: Sequence[tuple[int, int]], tensors: RowTensors
) -> dict[str, Tensor]:
    """Where the logits of each answer are, in the order asked for."""
    longest = max(len(rows[r].answers[k]) for r, k in order)
    source_NA = torch.full((len(order), longest), tensors.length - 1)
    target_NA = torch.zeros((len(order), longest), dtype=torch.long)
    mask_NA = torch.zeros((len(order), longest), dtype=torch.bool)
    for n, (r, k) in enumerate(order):
        answer = rows[r].answers[k]
        offset = tensors.offsets[r]
        start = offset + rows[r].starts[k]
        prompt_end = offset + len(rows[r].prompt)
        source_NA[n, : len(answer)] = torch.tensor(
            [prompt_end - 1, *range(start, start + len(answer) - 1)]
        )
        target_NA[n, : len(answer)] = torch.tensor(answer)
        mask_NA[n, : len(answer)] = True
    return {
        "row_N": torch.tensor([r for r, _ in order]),
        "source_NA": source_NA,
        "target_NA": target_NA,
        "mask_NA": mask_NA,
    }


def answer_logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """One forward pass; the logits [N, A, V] that predict each answer's tokens, in float32 or
    better.
    """
    length = batch["input_ids"].shape[1]
    # The head is applied only where an answer may be predicted: with a large vocabulary it costs
    # more than the rest.
    logit_count = length - int(batch["source_NA"].min())
    inputs = {name: batch[name] for name in _MODEL_INPUTS}
    logits_RKV = model(**inputs, use_cache=False, logits_to_keep=logit_count).logits
    logits_NAV: Tensor = logits_RKV[
        batch["row_N"][:, None], batch["source_NA"] - (length - logit_count)
    ]
    return logits_NAV if logits_NAV.dtype == torch.float64 else logits_NAV.float()
