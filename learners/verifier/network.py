"""The verifier's network: a Hugging Face token-classification model with one label, read at an
action's last token.

The checkpoint is plain: `AutoModelForTokenClassification` loads it, the value head is its `score`.
V is the sigmoid of the head's output, passed through the calibration in `verifier.json`. Axes: N
answers, T tokens.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learners.common.packing import AnswerRow, can_share_prompt, row_tensors
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
    rows = list(states)
    if not share_prompt:
        rows = [AnswerRow(state.prompt, (answer,)) for state in states for answer in state.answers]
    tensors = row_tensors(rows, pad_id, pad_left=False, own_mask=share_prompt)
    ends: list[tuple[int, int]] = []
    for r, row in enumerate(rows):
        ends += [(r, last) for last in row.lasts]
    row_N, last_N = torch.tensor(ends).T
    batch = {
        "input_ids": tensors.ids_RT,
        "attention_mask": tensors.mask,
        "row_N": row_N,
        "last_N": last_N,
    }
    if share_prompt:
        batch["position_ids"] = tensors.positions_RT
    return batch


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
    """A published verifier, ready to score in the type that its weights were published in.
    `max_tokens` bounds a forward pass (padding included).

    With `kept_tokens`, a processor without an accelerator reads conversations on from where it
    stopped (`PrefixScorer`). Elsewhere the batch in which a row is read may change the last bits of
    its scores.
    """

    def __init__(self, path: Path, max_tokens: int = 8192, kept_tokens: int = 0) -> None:
        from transformers import AutoModelForTokenClassification

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForTokenClassification.from_pretrained(path, dtype="auto")
        self._model = model.to(self._device).eval()
        self._model.config.use_cache = False
        self._share = can_share_prompt(self._model)
        self._max_tokens = max_tokens
        on = kept_tokens > 0 and self._share and self._device == "cpu"
        self._prefixes = PrefixScorer(self._model, kept_tokens) if on else None
        calibration_file = path / CALIBRATION
        self._calibration: Isotonic | None = None
        if calibration_file.is_file():
            self._calibration = Isotonic.from_json(
                read_json_object(calibration_file)["calibration"]
            )

    def score(self, states: Sequence[AnswerRow]) -> list[tuple[float, ...]]:
        """V in [0, 1] of every answer of every state, calibrated where the checkpoint has a
        calibration.
        """
        if self._prefixes is not None:
            return [tuple(self._calibrated(self._prefixes.logits(state))) for state in states]
        by_length = sorted(range(len(states)), key=lambda i: len(states[i].ids))
        scores: dict[int, tuple[float, ...]] = {}
        together: list[int] = []
        for place in by_length:
            if together and self._cost(states[place], len(together) + 1) > self._max_tokens:
                scores |= self._score_together(states, together)
                together = []
            together.append(place)
        if together:
            scores |= self._score_together(states, together)
        return [scores[i] for i in range(len(states))]

    def _score_together(
        self, states: Sequence[AnswerRow], places: Sequence[int]
    ) -> dict[int, tuple[float, ...]]:
        """The scores of some of the states by their places, in one forward pass."""
        values = iter(self._forward([states[i] for i in places]))
        return {i: tuple(islice(values, len(states[i].answers))) for i in places}

    def _cost(self, longest: AnswerRow, states: int) -> int:
        """Tokens of a forward pass over as many states, none longer than this one."""
        rows = 1 if self._share else len(longest.answers)
        return states * rows * len(longest.ids)

    def _forward(self, states: Sequence[AnswerRow]) -> list[float]:
        # The padding's id is never looked at: no real token sees it.
        batch = value_batch(states, 0, self._share)
        batch = {name: tensor.to(self._device) for name, tensor in batch.items()}
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
