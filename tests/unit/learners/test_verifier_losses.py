"""The verifier's loss and its batches against a plain float64 reference, values and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForTokenClassification,
    Qwen3Config,
    Qwen3ForTokenClassification,
)

from learners.common.packing import AnswerRow, can_share_prompt
from learners.verifier.losses import verifier_loss
from learners.verifier.network import answer_scores, value_batch


def plain_loss(groups: list[list[tuple[Tensor, float]]], weight: float) -> Tensor:
    """docs/method.md, section 3, a candidate and a pair at a time."""
    total = []
    for group in groups:
        bce = [
            -(
                v * torch.log(1 / (1 + torch.exp(-s)))
                + (1 - v) * torch.log(1 - 1 / (1 + torch.exp(-s)))
            )
            for s, v in group
        ]
        pairs = [
            -torch.log(1 / (1 + torch.exp(-(s - r)))) for s, v in group for r, u in group if v > u
        ]
        pairwise = torch.stack(pairs).mean() if pairs else torch.zeros(())
        total.append(torch.stack(bce).mean() + weight * pairwise)
    return torch.stack(total).mean()


@pytest.mark.parametrize("seed", range(8))
def test_loss_and_gradient_equal_the_plain_reference(seed: int) -> None:
    torch.manual_seed(seed)
    sizes = torch.randint(1, 7, (5,)).tolist()
    scores = (3 * torch.randn(sum(sizes), dtype=torch.float64)).requires_grad_()
    values = torch.randint(0, 4, (sum(sizes),)) / 3.0
    group = torch.repeat_interleave(torch.arange(5), torch.tensor(sizes))
    bce, pairwise = verifier_loss(scores.float(), values, group, 5)
    ours = (bce + 0.5 * pairwise).mean()
    [gradient] = torch.autograd.grad(ours, scores)
    grouped = [
        [(scores[i], float(values[i])) for i in range(len(values)) if group[i] == g]
        for g in range(5)
    ]
    expected = plain_loss(grouped, 0.5)
    [expected_gradient] = torch.autograd.grad(expected, scores)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    assert torch.allclose(gradient, expected_gradient, rtol=0, atol=1e-5)


def test_a_group_without_an_order_has_no_pairwise_loss() -> None:
    _, pairwise = verifier_loss(
        torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.5, 0.5, 1.0]), torch.tensor([0, 0, 1]), 2
    )
    assert pairwise.tolist() == [0.0, 0.0]


def qwen() -> Any:
    config = Qwen3Config(
        vocab_size=19,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    config.num_labels, config.classifier_dropout = 1, 0.0
    return Qwen3ForTokenClassification(config).double().eval()


def states(seed: int) -> list[AnswerRow]:
    generator = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return [int(i) for i in torch.randint(1, 19, (length,), generator=generator)]

    return [AnswerRow(ids(1, 12), tuple(ids(1, 5) for _ in range(1 + i))) for i in range(4)]


@pytest.mark.parametrize("share", [True, False])
def test_every_candidate_is_read_as_if_it_were_alone(share: bool) -> None:
    torch.manual_seed(0)
    model = qwen()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.ndim == 2 else parameter
    assert can_share_prompt(model)
    rows = states(1)
    scores = answer_scores(model, value_batch(rows, 0, share))
    expected = [
        model(torch.tensor([row.prompt + answer])).logits[0, -1, 0]
        for row in rows
        for answer in row.answers
    ]
    assert torch.allclose(scores, torch.stack(expected), rtol=0, atol=1e-9)
    assert scores.std() > 1e-3


def test_an_encoder_is_a_backbone_too() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=19,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
    )
    model = BertForTokenClassification(config).double().eval()
    assert not can_share_prompt(model)
    rows = states(2)
    scores = answer_scores(model, value_batch(rows, 0, share_prompt=False))
    expected = [
        model(torch.tensor([row.prompt + answer])).logits[0, -1, 0]
        for row in rows
        for answer in row.answers
    ]
    assert torch.allclose(scores, torch.stack(expected), rtol=0, atol=1e-9)
