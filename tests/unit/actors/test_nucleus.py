"""The nucleus of a row, against the definition token by token and against vLLM's own sort."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

from actors.vllm.nucleus import TOP_P, Nucleus, keep_nucleus

SPREADS = (0.0, 0.01, 1.0, 4.0, 30.0)
"""From a row where every token is as likely to one where a single token is."""


def by_definition(logits_V: torch.Tensor, top_p: float) -> set[int]:
    probabilities = torch.softmax(logits_V.double(), 0).tolist()
    kept: set[int] = set()
    mass = 0.0
    for token in sorted(range(len(probabilities)), key=lambda v: -probabilities[v]):
        if mass >= top_p:
            break
        kept.add(token)
        mass += probabilities[token]
    return kept


def tokens(masked_V: torch.Tensor) -> set[int]:
    return set(masked_V.isfinite().nonzero().squeeze(1).tolist())


def rows(vocabulary: int) -> torch.Tensor:
    """Distinct logits, so that the nucleus is one; in float64, so that no rounding moves its
    edge."""
    drawn = torch.Generator().manual_seed(7)
    noise_BV = torch.randn(len(SPREADS), vocabulary, generator=drawn, dtype=torch.float64)
    return noise_BV * torch.tensor(SPREADS).unsqueeze(1) + torch.arange(vocabulary) * 1e-9


@pytest.mark.parametrize("vocabulary", [3, 256, 5000])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.95, 0.999])
def test_the_fewest_likeliest_tokens_whose_mass_reaches_top_p_stay(
    vocabulary: int, top_p: float
) -> None:
    logits_BV = rows(vocabulary)
    # A row with another top-p beside it changes nothing.
    top_p_B = torch.tensor([top_p] * (len(SPREADS) - 1) + [0.5], dtype=torch.float64)
    masked_BV = keep_nucleus(logits_BV, top_p_B)
    for logits_V, masked_V, own in zip(logits_BV, masked_BV, top_p_B.tolist(), strict=True):
        kept = tokens(masked_V)
        assert kept == by_definition(logits_V, own)
        place = torch.tensor(sorted(kept))
        assert torch.equal(masked_V[place], logits_V[place])


def test_it_is_vllms_own_nucleus_on_a_large_vocabulary() -> None:
    drawn = torch.Generator().manual_seed(3)
    logits_BV = torch.randn(6, 150_000, generator=drawn) * torch.tensor([[0.5, 1, 2, 3, 4, 6]]).T
    top_p_B = torch.full((6,), 0.95)
    theirs_BV = apply_top_k_top_p_pytorch(logits_BV.clone(), None, top_p_B)
    for masked_V, expected_V in zip(keep_nucleus(logits_BV, top_p_B), theirs_BV, strict=True):
        # Float sums over 150,000 tokens differ by their order.
        assert len(tokens(masked_V) ^ tokens(expected_V)) <= 1e-4 * len(tokens(expected_V))


def test_what_is_forbidden_stays_so_and_one_token_is_left() -> None:
    logits_BV = torch.full((3, 50), -math.inf)
    logits_BV[:, 7] = -3.0
    logits_BV[1:, 9] = -3.0
    masked_BV = keep_nucleus(logits_BV, torch.tensor([0.95, 0.95, 0.5]))
    alone, both, either = map(tokens, masked_BV)
    assert (alone, both) == ({7}, {7, 9})
    assert len(either) == 1
    assert either < {7, 9}


def test_every_request_keeps_its_own_top_p_as_rows_change() -> None:
    def asked(top_p: float | None) -> tuple[Any, ...]:
        return SamplingParams(extra_args=None if top_p is None else {TOP_P: top_p}), None, []

    processor = Nucleus(SimpleNamespace(), torch.device("cpu"), False)
    logits_BV = rows(50)[[2, 2, 2]].float()
    alone = {p: tokens(keep_nucleus(logits_BV[:1], torch.tensor([p]))[0]) for p in (0.3, 0.9)}
    everything = set(range(50))

    def kept() -> list[set[int]]:
        return [tokens(masked_V) for masked_V in processor.apply(logits_BV.clone())]

    assert kept() == [everything] * 3
    added = [(0, *asked(0.3)), (1, *asked(None)), (2, *asked(0.9))]
    processor.update_state(BatchUpdate(3, removed=(), added=added, moved=()))
    assert kept() == [alone[0.3], everything, alone[0.9]]
    moved = [(0, 1, MoveDirectionality.SWAP)]
    processor.update_state(BatchUpdate(3, removed=(), added=(), moved=moved))
    assert kept() == [everything, alone[0.3], alone[0.9]]
    moved = [(2, 0, MoveDirectionality.UNIDIRECTIONAL)]
    processor.update_state(BatchUpdate(2, removed=(), added=[(1, *asked(0.9))], moved=moved))
    logits_BV = logits_BV[:2]
    assert kept() == [alone[0.9], alone[0.9]]
