"""Scores of growing conversations: what was read of a conversation stays read, and each step costs its new tokens only.

Equal to reading every row afresh (to rounding). For processors where a forward pass costs what its tokens cost; where batches
are cheap, `ValueModel` reads whole rows together instead.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from learners.answer_rows import AnswerRow
from learners.row_tensors import row_tensors

Past = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [1, heads, tokens, dim]."""


class PrefixScorer:
    """Keeps the keys and values of at most `tokens` prompt tokens; the longest unused goes first."""

    def __init__(self, model: Any, tokens: int) -> None:
        self._model, self._most = model, tokens
        self._known: OrderedDict[tuple[int, ...], Past] = OrderedDict()
        self._held = 0

    def logits(self, state: AnswerRow) -> Tensor:
        """Logit V of each answer [N]."""
        from transformers import DynamicCache

        read, past = self._longest_known(state.prompt)
        tensors = row_tensors([state], 0, pad_left=False, own_mask=True)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        with torch.no_grad():
            logits_T = self._model(
                input_ids=tensors.ids_RT[:, read:],
                position_ids=tensors.positions_RT[:, read:],
                attention_mask=tensors.mask[:, :, read:],
                past_key_values=cache,
                use_cache=True,
            ).logits[0, :, 0]
        if read < len(state.prompt):
            self._keep(state.prompt, cache)
        scores_N: Tensor = logits_T[[start + len(answer) - 1 - read for start, answer in zip(state.starts, state.answers, strict=True)]]
        return scores_N

    def _longest_known(self, prompt: list[int]) -> tuple[int, Past]:
        whole = tuple(prompt)
        for length in sorted({len(known) for known in self._known if len(known) <= len(whole)}, reverse=True):
            if (key := whole[:length]) in self._known:
                self._known.move_to_end(key)
                return length, self._known[key]
        return 0, []

    def _keep(self, prompt: list[int], cache: Any) -> None:
        length = len(prompt)
        self._known[tuple(prompt)] = [(layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone()) for layer in cache.layers]
        self._held += length
        while self._held > self._most and len(self._known) > 1:
            self._held -= len(self._known.popitem(last=False)[0])
