"""The nucleus of a row, against the definition token by token and against vLLM's own sort."""

import math

import pytest
import torch
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

from actors.vllm.nucleus import keep_nucleus

V = 5000


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


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.95, 0.999])
def test_the_fewest_likeliest_tokens_whose_mass_reaches_top_p_stay(
    spread: float, top_p: float
) -> None:
    # Distinct logits, so that the nucleus is one; in float64, so that no rounding moves its edge.
    noise = torch.randn(V, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    logits_V = noise * spread + torch.arange(V) * 1e-9
    masked_V = keep_nucleus(logits_V, top_p)
    kept = tokens(masked_V)
    assert kept == by_definition(logits_V, top_p)
    place = torch.tensor(sorted(kept))
    assert torch.equal(masked_V[place], logits_V[place])


def test_it_is_vllms_own_nucleus_on_a_large_vocabulary() -> None:
    drawn = torch.Generator().manual_seed(3)
    logits_BV = torch.randn(6, 150_000, generator=drawn) * torch.tensor([[0.5, 1, 2, 3, 4, 6]]).T
    theirs_BV = apply_top_k_top_p_pytorch(logits_BV.clone(), None, torch.full((6,), 0.95))
    for row_V, expected_V in zip(logits_BV, theirs_BV, strict=True):
        masked_V = keep_nucleus(row_V, 0.95)
        # Float sums over 150,000 tokens differ by their order.
        assert len(tokens(masked_V) ^ tokens(expected_V)) <= 1e-4 * len(tokens(expected_V))


def test_what_is_forbidden_stays_so_and_one_token_is_left() -> None:
    logits_V = torch.full((50,), -math.inf)
    logits_V[7] = -3.0
    assert tokens(keep_nucleus(logits_V, 0.95)) == {7}
    logits_V[9] = -3.0
    assert tokens(keep_nucleus(logits_V, 0.95)) == {7, 9}
    assert len(tokens(keep_nucleus(logits_V, 0.5))) == 1
