"""Pairs as tensors: the prompt is read once for both answers, and every answer token knows the position that predicts it.

A row is `padding | prompt | a+ | a-`: the attention mask hides a+ from a-, and positions restart at a-, so both answers
see exactly the prompt before them. A second view of the state is a row of its own, `padding | prompt' | a+`. Padding is
on the left, so that the answers' logits are at the end of every row, whatever the prompts' lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")
_SHARING_ARCHITECTURES = {"llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"}


def can_share_prompt(model: Any) -> bool:
    """Whether this model takes an attention mask of our own over its whole context."""
    config = model.config
    full = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    window = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return config.model_type in _SHARING_ARCHITECTURES and config._attn_implementation == "sdpa" and full and not window


@dataclass(frozen=True)
class _Row:
    """Token ids, where each answer starts, and whether the second one must not see the first."""

    prompt: list[int]
    answers: tuple[list[int], ...]

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *(token for answer in self.answers for token in answer)]


@dataclass
class PairCollator:
    """Examples with `prompt_ids`, `chosen_ids`, `rejected_ids`, `view_prompt_ids` (empty: no second view) to a batch.

    The batch holds the model's inputs [R, T]; for N answers in the order chosen (B), rejected (B), second views (C) their
    `row_N`, `source_NA` (position whose logits predict the token), `target_NA` and `mask_NA`; `viewed_C`, the pairs that
    the second views belong to; and reference log-probabilities [B] where the examples have them.

    `share_prompt` puts both answers in one row; it needs an attention that takes a mask of its own, over the whole row.
    """

    pad_id: int
    views: bool
    share_prompt: bool

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate."""
        both = [_Row(e["prompt_ids"], (e["chosen_ids"], e["rejected_ids"])) for e in examples]
        rows = both if self.share_prompt else [_Row(row.prompt, (row.answers[k],)) for k in (0, 1) for row in both]
        viewed = [i for i, e in enumerate(examples) if self.views and e["view_prompt_ids"]]
        rows = [*rows, *(_Row(examples[i]["view_prompt_ids"], (examples[i]["chosen_ids"],)) for i in viewed)]
        # Chosen answers first, then rejected ones, then those of second views, in either layout.
        order = [(i, k) for k in (0, 1) for i in range(len(both))] if self.share_prompt else [(i, 0) for i in range(2 * len(both))]
        order += [(i, 0) for i in range(len(rows) - len(viewed), len(rows))]
        length = max(len(row.ids) for row in rows)
        batch = {**self._inputs(rows, length), **_answers(rows, order, length), "viewed_C": torch.tensor(viewed, dtype=torch.long)}
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in examples[0]:
                batch[name] = torch.tensor([e[name] for e in examples])
        return batch

    def _inputs(self, rows: Sequence[_Row], length: int) -> dict[str, Tensor]:
        ids_RT = torch.full((len(rows), length), self.pad_id)
        positions_RT = torch.zeros((len(rows), length), dtype=torch.long)
        real_RT = torch.zeros((len(rows), length), dtype=torch.long)
        for r, row in enumerate(rows):
            start = length - len(row.ids)
            ids_RT[r, start:] = torch.tensor(row.ids)
            real_RT[r, start:] = 1
            after_prompt = [len(row.prompt) + i for answer in row.answers for i in range(len(answer))]
            positions_RT[r, start:] = torch.tensor([*range(len(row.prompt)), *after_prompt])
        mask = self._tree_mask(rows, real_RT) if self.share_prompt else real_RT
        return {"input_ids": ids_RT, "attention_mask": mask, "position_ids": positions_RT}

    def _tree_mask(self, rows: Sequence[_Row], real_RT: Tensor) -> Tensor:
        """Who may see whom [R, 1, T, T]; padding sees itself, since a softmax over nothing is not a number."""
        length = real_RT.shape[1]
        causal_TT = torch.ones((length, length), dtype=torch.bool).tril()
        visible_RTT = causal_TT & real_RT.bool()[:, None, :]
        for r, row in enumerate(rows):
            first = length - len(row.ids) + len(row.prompt)
            second = first + len(row.answers[0])
            visible_RTT[r, second:, first:second] = False
        visible_RTT |= torch.eye(length, dtype=torch.bool)
        return visible_RTT[:, None]


def _answers(rows: Sequence[_Row], order: Sequence[tuple[int, int]], length: int) -> dict[str, Tensor]:
    """Where the logits of each answer are, in the order asked for."""
    longest = max(len(rows[r].answers[k]) for r, k in order)
    source_NA = torch.zeros((len(order), longest), dtype=torch.long) + length - 1
    target_NA = torch.zeros((len(order), longest), dtype=torch.long)
    mask_NA = torch.zeros((len(order), longest), dtype=torch.bool)
    for n, (r, k) in enumerate(order):
        answer = rows[r].answers[k]
        prompt_end = length - len(rows[r].ids) + len(rows[r].prompt)
        start = prompt_end + sum(len(earlier) for earlier in rows[r].answers[:k])
        source_NA[n, : len(answer)] = torch.tensor([prompt_end - 1, *range(start, start + len(answer) - 1)])
        target_NA[n, : len(answer)] = torch.tensor(answer)
        mask_NA[n, : len(answer)] = True
    return {"row_N": torch.tensor([r for r, _ in order]), "source_NA": source_NA, "target_NA": target_NA, "mask_NA": mask_NA}


def answer_logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """One forward pass; the logits [N, A, V] that predict each answer's tokens, in float32 or better."""
    length = batch["input_ids"].shape[1]
    # The head is applied only where an answer may be predicted: with a large vocabulary it costs more than the rest.
    kept = length - int(batch["source_NA"].min())
    inputs = {name: batch[name] for name in MODEL_INPUTS}
    logits_RKV = model(**inputs, use_cache=False, logits_to_keep=kept).logits
    logits_NAV: Tensor = logits_RKV[batch["row_N"][:, None], batch["source_NA"] - (length - kept)]
    return logits_NAV if logits_NAV.dtype == torch.float64 else logits_NAV.float()
