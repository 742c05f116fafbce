"""What asking the teacher gains for what it costs, from the estimates of a router: the score
`advantage`. Gain and saving are linear in `effect_inputs`.
"""

import numpy as np
import numpy.typing as npt

from r2v_dist.router.features import FEATURE_NAMES

Array = npt.NDArray[np.float64]
EFFECT_FEATURES = ("t", "escalations")
"""What gain and saving are linear in besides risks and dissent. Pairs are few and each is one coin
toss, so the inputs are few too: the estimates stand for the other features.
"""
_EFFECT_COLUMNS = [FEATURE_NAMES.index(name) for name in EFFECT_FEATURES]
LEAST_COST = 0.1
LEAST_GAIN = 0.01
"""A router that asks often recovers from most steps, and few pairs may then show no gain at all:
what a step saves decides.
"""


def effect_inputs(
    rho_N: Array, rho1_N: Array, rhoT_N: Array, dissent_N: Array, f_NF: Array
) -> Array:
    """What gain and saving are linear in, [N, 6]; `f_NF` are standardised."""
    return np.stack([rho_N, rho1_N, rhoT_N, dissent_N, *f_NF.T[_EFFECT_COLUMNS]], axis=1)


def advantage(dissent_N: Array, gain_N: Array, saving_N: Array) -> Array:
    """Success gained for every call that asking the teacher costs in the end. A teacher that would
    do the same changes nothing and costs one call; another action costs one and saves `saving_N`
    later. What costs nearly nothing counts as `LEAST_COST` calls, and what gains nearly nothing as
    `LEAST_GAIN`.
    """
    score_N: Array = (
        dissent_N
        * np.maximum(gain_N, LEAST_GAIN)
        / np.maximum(call_cost(dissent_N, saving_N), LEAST_COST)
    )
    return score_N


def call_cost(dissent_N: Array, saving_N: Array) -> Array:
    """Calls that asking the teacher costs in the end: the denominator of `advantage` before it is
    clipped.
    """
    cost_N: Array = 1.0 - dissent_N * saving_N
    return cost_N
