"""Top-p without sorting a vocabulary, for engines on CPUs: vLLM loads this class by its name.

vLLM sorts all logits of every row to find the nucleus (the fewest tokens whose probabilities sum to
top-p; Holtzman et al., 2020), which on a core takes longer than the rest of a small model's step.

Invariant: the tokens that stay are those of the sort, up to rounding where the sum meets top-p.
"""

import math
from functools import partial
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

TOP_P = "r2v_top_p"
"""Where a request's `extra_args` say its top-p. vLLM's own stays 1, for which it does not sort."""
_DEPTH = 12.0
"""Tokens less likely than the likeliest by exp(-12) are hardly ever in a nucleus. Where they are,
all are sorted."""


class Nucleus(AdapterLogitsProcessor):  # type: ignore[misc]  # vLLM says no types here
    """Masks what is outside of each request's nucleus, after its temperature."""

    def is_argmax_invariant(self) -> bool:
        """The likeliest token always stays, so greedy requests are not touched."""
        return True

    def new_req_logits_processor(self, params: SamplingParams) -> Any:
        """None for a request that names no top-p here."""
        top_p = (params.extra_args or {}).get(TOP_P)
        return None if top_p is None else partial(_kept, top_p)


def _kept(top_p: float, _: list[int], logits_V: torch.Tensor) -> torch.Tensor:
    return keep_nucleus(logits_V, top_p)


def keep_nucleus(logits_V: torch.Tensor, top_p: float) -> torch.Tensor:
    """The logits with -inf for every token whose likelier ones have a mass of at least `top_p`."""
    likely_L = (logits_V > logits_V.max() - _DEPTH).nonzero().squeeze(1)
    kept_K = _nucleus(logits_V, likely_L, top_p)
    if kept_K is None:
        kept_K = _nucleus(logits_V, torch.arange(len(logits_V)), top_p)
    assert kept_K is not None
    masked_V = torch.full_like(logits_V, -math.inf)
    masked_V[kept_K] = logits_V[kept_K]
    return masked_V


def _nucleus(logits_V: torch.Tensor, among_L: torch.Tensor, top_p: float) -> torch.Tensor | None:
    """The nucleus, where `among_L` are the likeliest tokens; None where it is larger than these."""
    sorted_L, order_L = logits_V[among_L].sort(descending=True)
    mass_L = (sorted_L - logits_V.logsumexp(0)).exp().cumsum(0)
    if mass_L[-1] < top_p and len(among_L) < len(logits_V):
        return None
    return among_L[order_L[: int((mass_L < top_p).sum()) + 1]]
