"""The terms of docs/method.md, section 4 as pure functions of logits; every one is a value per
pair.

A pair's value depends on that pair alone, so that a mean over pairs is the same however they are
split into batches and ranks. Axes: B pairs, A completion tokens, V vocabulary. Log-probabilities
and divergences are in nats.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def token_log_probs(logits_BAV: Tensor, targets_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """log pi(token | prompt, earlier tokens) [B, A]; 0 where the mask is."""
    target_logits_BA = logits_BAV.gather(2, targets_BA[..., None])[..., 0]
    return (target_logits_BA - logits_BAV.logsumexp(2)).where(
        mask_BA, target_logits_BA.new_zeros(())
    )


def dpo_loss(log_ratio_chosen_B: Tensor, log_ratio_rejected_B: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta [log pi/pi_ref(a+) - log pi/pi_ref(a-)]) [B]."""
    return -F.logsigmoid(beta * (log_ratio_chosen_B - log_ratio_rejected_B))


def jensen_shannon(p_logits_BAV: Tensor, q_logits_BAV: Tensor, temperature: float) -> Tensor:
    """JSD(p || q) of the two softened distributions at each token [B, A], in [0, log 2]."""
    p_BAV, q_BAV = (
        F.log_softmax(logits / temperature, dim=-1) for logits in (p_logits_BAV, q_logits_BAV)
    )
    # log of the mixture, without leaving log space: a probability that underflows must not become
    # log 0.
    m_BAV = torch.logaddexp(p_BAV, q_BAV) - torch.log(
        torch.tensor(2.0, dtype=p_BAV.dtype, device=p_BAV.device)
    )
    p_to_m_BA = (p_BAV.exp() * (p_BAV - m_BAV)).sum(-1)
    q_to_m_BA = (q_BAV.exp() * (q_BAV - m_BAV)).sum(-1)
    return (p_to_m_BA + q_to_m_BA) / 2


def token_mean(values_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """Mean over a row's own tokens [B]; every row has at least one."""
    return values_BA.where(mask_BA, values_BA.new_zeros(())).sum(1) / mask_BA.sum(1)
