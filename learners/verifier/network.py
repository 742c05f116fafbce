"""The verifier's network: a Hugging Face token-classification model with one label, read at an
action's last token.

The checkpoint is plain: `AutoModelForTokenClassification` loads it, the value head is its `score`.
V is the sigmoid of the head's output, passed through the calibration in `verifier.json`. Axes: N
answers, T tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learners.common.packing import AnswerRow, can_share_prompt
from learners.common.packing_tensors import row_tensors
from learners.verifier.prefix_cache import PrefixScorer
from r2v_dist.files import read_json_object
from r2v_dist.router.calibration import Isotonic

CALIBRATION = "verifier.json"
_ORDER = 1e-6
"""Share of the uncalibrated V in a calibrated one."""


def value_batch(states: Sequence[AnswerRow], pad_id: int, share_prompt: bool) -> dict[str, Tensor]:
    """Model inputs, and `row_N`, `last_N`: where each answer ends. Answers are in order, state by
    state.

    Without sharing there is neither a mask nor positions of our own, so that any encoder or decoder
    takes the batch.
    """
    rows = (
        list(states)
        if share_prompt
        else [AnswerRow(state.prompt, (answer,)) for state in states for answer in state.answers]
    )
    tensors = row_tensors(rows, pad_id, pad_left=False, own_mask=share_prompt)
    places = [
        (r, start + len(answer) - 1)
        for r, row in enumerate(rows)
        for start, answer in zip(row.starts, row.answers, strict=True)
    ]
    row_N, last_N = torch.tensor(places).T
    batch = {
        "input_ids": tensors.ids_RT,
        "attention_mask": tensors.mask,
        "row_N": row_N,
        "last_N": last_N,
    }
    return batch | ({"position_ids": tensors.positions_RT} if share_prompt else {})


def answer_scores(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """One forward pass; logit V of each answer [N], in float32 or better."""
    inputs = {
        name: batch[name]
        for name in ("input_ids", "attention_mask", "position_ids")
        if name in batch
    }
    logits_RT = model(**inputs).logits[..., 0]
    scores_N: Tensor = logits_RT[batch["row_N"], batch["last_N"]]
    return scores_N if scores_N.dtype == torch.float64 else scores_N.float()


class ValueModel:
    """A published verifier, ready to score. `max_tokens` bounds a forward pass (padding included).

    With `kept_tokens`, a processor without an accelerator reads conversations on from where it
    stopped (`PrefixScorer`). Elsewhere the batch in which a row is read may change the last bits of
    its scores.
    """

    def __init__(self, path: Path, max_tokens: int = 8192, kept_tokens: int = 0) -> None:
        from transformers import AutoModelForTokenClassification

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        self._model = (
            AutoModelForTokenClassification.from_pretrained(path, dtype=dtype)
            .to(self._device)
            .eval()
        )
        self._model.config.use_cache = False
        self._share = can_share_prompt(self._model)
        self._max_tokens = max_tokens
        on = kept_tokens > 0 and self._share and self._device == "cpu"
        self._prefixes = PrefixScorer(self._model, kept_tokens) if on else None
        saved = path / CALIBRATION
        self._calibration = (
            Isotonic.from_json(read_json_object(saved)["calibration"]) if saved.is_file() else None
        )

    def score(self, states: Sequence[AnswerRow]) -> list[tuple[float, ...]]:
        """V in [0, 1] of every answer of every state, calibrated where the checkpoint has a
        calibration.
        """
        if self._prefixes is not None:
            return [tuple(self._calibrated(self._prefixes.logits(state))) for state in states]
        by_length = sorted(range(len(states)), key=lambda i: len(states[i].ids))
        scores: dict[int, tuple[float, ...]] = {}
        start = 0
        while start < len(by_length):
            stop = start + 1
            while (
                stop < len(by_length)
                and self._cost(states[by_length[stop]], stop + 1 - start) <= self._max_tokens
            ):
                stop += 1
            chosen = by_length[start:stop]
            values = iter(self._forward([states[i] for i in chosen]))
            scores |= {i: tuple(next(values) for _ in states[i].answers) for i in chosen}
            start = stop
        return [scores[i] for i in range(len(states))]

    def _cost(self, longest: AnswerRow, states: int) -> int:
        return states * (
            len(longest.ids) if self._share else len(longest.answers) * len(longest.ids)
        )

    def _forward(self, states: Sequence[AnswerRow]) -> list[float]:
        # The padding's id is never looked at: no real token sees it.
        batch = {
            name: tensor.to(self._device)
            for name, tensor in value_batch(states, 0, self._share).items()
        }
        with torch.no_grad():
            return self._calibrated(answer_scores(self._model, batch))

    def _calibrated(self, logits_N: Tensor) -> list[float]:
        v_N = torch.sigmoid(logits_N).double().cpu().numpy()
        if self._calibration:
            # A calibration has plateaus; best-of-K must still see which candidate is the better
            # one.
            v_N = (1 - _ORDER) * self._calibration(v_N) + _ORDER * v_N
        values: list[float] = v_N.tolist()
        return values
