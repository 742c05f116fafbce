"""Top-p without sorting a vocabulary, for engines on CPUs: vLLM loads this class by its name.

vLLM sorts all logits of every row to find the nucleus (the fewest tokens whose probabilities sum to
top-p; Holtzman et al., 2020), which on a core takes longer than the rest of a small model's step.

Invariant: the tokens that stay are those of the sort, up to rounding where the sum meets top-p.
"""

import math
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

TOP_P = "r2v_top_p"
"""Where a request's `extra_args` say its top-p. vLLM's own stays 1, for which it does not sort."""
_LIKELY = 256
"""Tokens of a row that are looked at first. Where they are less than top-p, all are sorted."""


class Nucleus(LogitsProcessor):  # type: ignore[misc]  # vLLM says no types here
    """Masks what is outside of each request's nucleus, after its temperature."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._top_p: dict[int, float] = {}
        """By the row of a request; of those that name one here."""

    def is_argmax_invariant(self) -> bool:
        """The likeliest token always stays, so greedy requests are not touched."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Follow the requests as they come, go and change rows."""
        process_dict_updates(self._top_p, batch_update, _named_top_p)

    def apply(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The logits of all rows."""
        if not self._top_p:
            return logits_BV
        rows = sorted(self._top_p)
        top_p_R = torch.tensor([self._top_p[row] for row in rows])
        if len(rows) == len(logits_BV):
            return keep_nucleus(logits_BV, top_p_R)
        logits_BV[rows] = keep_nucleus(logits_BV[rows], top_p_R)
        return logits_BV


def _named_top_p(params: SamplingParams, *_: object) -> float | None:
    return (params.extra_args or {}).get(TOP_P)


def keep_nucleus(
    logits_BV: torch.Tensor, top_p_B: torch.Tensor, likely: int = _LIKELY
) -> torch.Tensor:
    """The logits with -inf for every token whose likelier ones have a mass of at least top-p. The
    `likely` likeliest tokens are tried first."""
    likely = min(likely, logits_BV.shape[1])
    top_BK, token_BK = logits_BV.topk(likely)
    mass_BK = (top_BK - logits_BV.logsumexp(1, keepdim=True)).exp().cumsum(1)
    likelier_BK = torch.nn.functional.pad(mass_BK[:, :-1], (1, 0))
    top_BK = top_BK.masked_fill(likelier_BK >= top_p_B.unsqueeze(1), -math.inf)
    masked_BV = torch.full_like(logits_BV, -math.inf).scatter_(1, token_BK, top_BK)
    larger_B = mass_BK[:, -1] < top_p_B
    if likely < logits_BV.shape[1] and larger_B.any():
        all_tokens = logits_BV.shape[1]
        masked_BV[larger_B] = keep_nucleus(logits_BV[larger_B], top_p_B[larger_B], all_tokens)
    return masked_BV
