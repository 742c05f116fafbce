"""The preference loss against a plain float64 reference that reads one sequence at a time, values
and gradients.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from learners.dpo.collator import PairCollator, answer_logits
from learners.dpo.losses import dpo_loss, jensen_shannon, token_log_probs, token_mean

VOCABULARY = 23


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    # Larger weights than usual, so that the softmax is far from flat and every error shows.
    network = Qwen3ForCausalLM(config).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4.0) if parameter.ndim == 2 else parameter
    return network


def random_pairs(seed: int, pairs: int = 4) -> list[dict[str, Any]]:
    """Prompts and answers of unequal lengths; the second views are longer or shorter, every third
    pair has none.
    """
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return [int(i) for i in torch.randint(0, VOCABULARY, (length,), generator=generator)]

    return [
        {
            "prompt_ids": ids(1, 12),
            "chosen_ids": ids(1, 5),
            "rejected_ids": ids(1, 5),
            "view_prompt_ids": [] if i % 3 == 2 else ids(1, 15),
            "ref_chosen_logps": -3.0 - i,
            "ref_rejected_logps": -4.0 + i / 2,
        }
        for i in range(pairs)
    ]


def reference_terms(
    model: Any, pair: dict[str, Any], beta: float, temperature: float
) -> dict[str, Tensor]:
    """docs/method.md, section 4, word for word, a token at a time."""

    def predictions(prompt: list[int], answer: list[int]) -> list[Tensor]:
        logits = model(torch.tensor([prompt + answer])).logits[0]
        return [logits[len(prompt) + i - 1] for i in range(len(answer))]

    def log_probability(rows: list[Tensor], answer: list[int]) -> Tensor:
        return torch.stack(
            [
                torch.log(torch.softmax(row, 0)[token])
                for row, token in zip(rows, answer, strict=True)
            ]
        ).sum()

    chosen, rejected = pair["chosen_ids"], pair["rejected_ids"]
    first = predictions(pair["prompt_ids"], chosen)
    log_chosen = log_probability(first, chosen)
    log_rejected = log_probability(predictions(pair["prompt_ids"], rejected), rejected)
    margin = beta * (
        (log_chosen - pair["ref_chosen_logps"]) - (log_rejected - pair["ref_rejected_logps"])
    )
    terms = {"dpo": -torch.log(1 / (1 + torch.exp(-margin))), "sft": -log_chosen / len(chosen)}
    if pair["view_prompt_ids"]:
        divergences = []
        for row, other in zip(first, predictions(pair["view_prompt_ids"], chosen), strict=True):
            p, q = torch.softmax(row / temperature, 0), torch.softmax(other / temperature, 0)
            m = (p + q) / 2
            divergences.append(((p * torch.log(p / m)).sum() + (q * torch.log(q / m)).sum()) / 2)
        terms["jsd"] = torch.stack(divergences).mean()
    return terms


def batched_terms(
    model: Any, pairs: list[dict[str, Any]], share: bool, beta: float, temperature: float
) -> dict[str, Tensor]:
    batch = PairCollator(0, views=True, share_prompt=share)(pairs)
    logits, mask, count = answer_logits(model, batch), batch["mask_NA"], len(pairs)
    logps = token_log_probs(logits, batch["target_NA"], mask)
    chosen, rejected = logps[: 2 * count].sum(1).chunk(2)
    dpo = dpo_loss(chosen - batch["ref_chosen_logps"], rejected - batch["ref_rejected_logps"], beta)
    jsd = jensen_shannon(logits[:count][batch["viewed_C"]], logits[2 * count :], temperature)
    return {
        "dpo": dpo,
        "sft": -token_mean(logps[:count], mask[:count]),
        "jsd": token_mean(jsd, mask[2 * count :]),
    }


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_terms_and_gradients_equal_the_plain_reference(model: Any, share: bool, seed: int) -> None:
    pairs = random_pairs(seed)
    ours = batched_terms(model, pairs, share, 0.1, 2.0)
    plain = [reference_terms(model, pair, 0.1, 2.0) for pair in pairs]
    for name, values in ours.items():
        expected = torch.stack([terms[name] for terms in plain if name in terms])
        assert torch.allclose(values, expected, rtol=0, atol=1e-5), name
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(values.sum(), parameters, retain_graph=True)
        expected_gradients = torch.autograd.grad(expected.sum(), parameters, retain_graph=True)
        for got, want in zip(gradients, expected_gradients, strict=True):
            assert torch.allclose(got, want, rtol=1e-5, atol=1e-5), name


def test_divergence_has_its_bounds_and_survives_impossible_tokens() -> None:
    p = torch.tensor([[[0.0, 0.0, -1e9], [0.0, -1e9, -1e9], [1.0, 2.0, 3.0]]], requires_grad=True)
    q = torch.tensor([[[-1e9, -1e9, 0.0], [-1e9, 0.0, -1e9], [1.0, 2.0, 3.0]]], requires_grad=True)
    divergence = jensen_shannon(p, q, 1.0)
    assert torch.allclose(divergence, torch.tensor([[math.log(2), math.log(2), 0.0]]), atol=1e-6)
    divergence.sum().backward()
    assert p.grad is not None
    assert q.grad is not None
    assert torch.isfinite(p.grad).all()
    assert torch.isfinite(q.grad).all()


def test_both_views_are_trained(model: Any) -> None:
    p, q = torch.randn(1, 3, 7, requires_grad=True), torch.randn(1, 3, 7, requires_grad=True)
    jensen_shannon(p, q, 2.0).sum().backward()
    assert p.grad is not None
    assert q.grad is not None
    assert p.grad.abs().min() > 0
    assert q.grad.abs().min() > 0


def test_the_rejected_answer_does_not_see_the_chosen_one(model: Any) -> None:
    [pair] = random_pairs(7, 1)
    collate = PairCollator(0, views=False, share_prompt=True)
    before = answer_logits(model, collate([pair]))[1]
    changed = pair | {"chosen_ids": [(i + 1) % VOCABULARY for i in pair["chosen_ids"]]}
    assert torch.equal(answer_logits(model, collate([changed]))[1], before)


def test_a_pair_means_the_same_in_any_company(model: Any) -> None:
    pairs = random_pairs(3, 5)
    together = batched_terms(model, pairs, True, 0.1, 2.0)
    alone = [batched_terms(model, [pair], True, 0.1, 2.0) for pair in pairs]
    for name, values in together.items():
        assert torch.allclose(
            values, torch.cat([terms[name] for terms in alone]), rtol=0, atol=1e-9
        ), name
