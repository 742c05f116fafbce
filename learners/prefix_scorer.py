"""Scores of growing conversations: what was read of a conversation stays read, and each step costs its new tokens only.

Equal to reading every row afresh (to rounding). For processors where a forward pass costs what its tokens cost; where batches
are cheap, `ValueModel` reads whole rows together instead.
"""

from collections import OrderedDict
from itertools import accumulate
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
        self._known: OrderedDict[int, tuple[list[int], Past]] = OrderedDict()
        """Prompts by their digest, with what was read of them."""
        self._held = 0

    def logits(self, state: AnswerRow) -> Tensor:
        """Logit V of each answer [N]."""
        from transformers import DynamicCache

        digests_T = list(accumulate(state.prompt, lambda digest, token: hash((digest, token)), initial=0))
        read, past = self._longest_known(state.prompt, digests_T)
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
            self._keep(state.prompt, digests_T[-1], cache)
        scores_N: Tensor = logits_T[[start + len(answer) - 1 - read for start, answer in zip(state.starts, state.answers, strict=True)]]
        return scores_N

    def _longest_known(self, prompt: list[int], digests_T: list[int]) -> tuple[int, Past]:
        for length in range(len(prompt), 0, -1):
            known, past = self._known.get(digests_T[length], ([], []))
            if known and known == prompt[:length]:
                self._known.move_to_end(digests_T[length])
                return length, past
        return 0, []

    def _keep(self, prompt: list[int], digest: int, cache: Any) -> None:
        length = len(prompt)
        past = [(layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone()) for layer in cache.layers]
        self._known[digest] = (prompt, past)
        self._held += length
        while self._held > self._most and len(self._known) > 1:
            oldest, _ = self._known.popitem(last=False)[1]
            self._held -= len(oldest)
