"""The verifier's loss (docs/method.md, section 3): BCE(V, v) + w * pairwise logistic inside each
group of candidates.

Every term is a value per group that depends on that group alone: a mean over groups is the same
however they are split into batches and ranks. Axes: N candidates, G groups.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def verifier_loss(
    scores_N: Tensor, values_N: Tensor, group_N: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """(BCE_G, pairwise_G) in nats; the loss is mean(BCE_G + w pairwise_G).

    Args:
        scores_N: logit V.
        values_N: branch values v in [0, 1], soft labels.
        group_N: which state a candidate belongs to, 0 .. groups - 1; every group has a candidate.
        groups: G.

    Pairwise: mean over the group's ordered pairs v_i > v_j of -log sigmoid(logit V_i - logit V_j);
    0 without such a pair.
    """
    values_N = values_N.to(scores_N.dtype)
    bce_N = F.binary_cross_entropy_with_logits(scores_N, values_N, reduction="none")
    bce_G = scores_N.new_zeros(groups).index_add(0, group_N, bce_N) / torch.bincount(
        group_N, minlength=groups
    )
    better_P, worse_P = ((group_N[:, None] == group_N) & (values_N[:, None] > values_N)).nonzero(
        as_tuple=True
    )
    losses_P = -F.logsigmoid(scores_N[better_P] - scores_N[worse_P])
    pairs_G = torch.bincount(group_N[better_P], minlength=groups)
    pairwise_G = scores_N.new_zeros(groups).index_add(
        0, group_N[better_P], losses_P
    ) / pairs_G.clamp(min=1)
    return bce_G, pairwise_G
