"""Scores of growing conversations: what was read of a conversation stays read, and each step costs
its last tokens only.

A score is a function of its row alone, to the last bit: prompts are read in blocks of one size from
the start, so that what was read before changes which forward passes are made and never their
shapes. Equal to reading every row afresh in one pass (to rounding). For processors where a forward
pass costs what its tokens cost; where batches are cheap, `ValueModel` reads whole rows together
instead.
"""

from collections import OrderedDict
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from learners.common.packing import AnswerRow, RowTensors, row_tensors

BLOCK = 32
"""Tokens: about as many as a step adds."""
Past = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, [1, heads, BLOCK, dim]."""


class PrefixScorer:
    """Keeps the keys and values of at most `tokens` prompt tokens; the block longest unused goes
    first.
    """

    def __init__(self, model: Any, tokens: int) -> None:
        self._model = model
        self._most = tokens // BLOCK
        self._known: OrderedDict[tuple[int, ...], Past] = OrderedDict()
        """What was read of the last block of a prefix, by the whole prefix."""

    def logits(self, state: AnswerRow) -> Tensor:
        """Logit V of each answer [N]."""
        row = row_tensors([state], 0, pad_left=False, own_mask=True)
        prefix_length = len(state.prompt) // BLOCK * BLOCK
        prefixes = [tuple(state.prompt[:end]) for end in range(BLOCK, prefix_length + 1, BLOCK)]
        with torch.no_grad():
            cache = self._read_blocks(row, prefixes)
            logits_T = self._forward(row, prefix_length, len(state.ids), cache).logits[0, :, 0]
        scores_N: Tensor = logits_T[[last - prefix_length for last in state.lasts]]
        return scores_N

    def _read_blocks(self, row: RowTensors, prefixes: list[tuple[int, ...]]) -> Any:
        """A cache that has read the longest of the prefixes, each a block longer than the one
        before.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        blocks = [self._known[prefix] for prefix in takewhile(self._known.__contains__, prefixes)]
        if blocks:
            for layer, of_layer in enumerate(zip(*blocks, strict=True)):
                keys = torch.cat([block_keys for block_keys, _ in of_layer], dim=2)
                values = torch.cat([block_values for _, block_values in of_layer], dim=2)
                cache.update(keys, values, layer)
        for prefix in prefixes[len(blocks) :]:
            start = len(prefix) - BLOCK
            end = len(prefix)
            self._forward(row, start, end, cache)
            self._known[prefix] = [
                (layer.keys[:, :, start:end].clone(), layer.values[:, :, start:end].clone())
                for layer in cache.layers
            ]
        for prefix in reversed(prefixes):  # a block is of use only where all before it are known
            self._known.move_to_end(prefix)
        while len(self._known) > max(self._most, len(prefixes)):
            self._known.popitem(last=False)
        return cache

    def _forward(self, row: RowTensors, start: int, end: int, cache: Any) -> Any:
        return self._model(
            input_ids=row.ids_RT[:, start:end],
            position_ids=row.positions_RT[:, start:end],
            attention_mask=row.mask[:, :, start:end, :end],
            past_key_values=cache,
            use_cache=True,
        )
