"""Effect of one teacher step that differs from the SLM's: success gained, later calls saved
(docs/method.md, section 7: re-roll online each round).

Pairs of branches tell: the first round's router goes on after the teacher's action (T) or the SLM's
(S), under common random numbers, with success S_T, S_S and teacher steps M_T, M_S. Where both
actions are one, both branches are one world, and the step costs its call and changes nothing; so
only states with dissent teach

    gain = S_T - S_S        saving = 1 + M_S - M_T

and the score is d gain / (1 - d saving) with the probability of dissent d: the success for a call
at which  kappa x failure + calls  stays the same, whatever kappa. Ridge is a closed form of the
whole table: every number of ranks gives the same.
"""

import numpy as np
import numpy.typing as npt

from r2v_dist.labels.table import LabelTable
from r2v_dist.router.advantage import effect_inputs
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import RouterModel, distinct

Array = npt.NDArray[np.float64]
STRENGTH = 1.0
"""Ridge penalty as a share of the total weight: what the inputs say is halved, however many pairs
there are.
"""


def fit_effects(model: RouterModel, labels: LabelTable) -> dict[str, Mlp]:
    """The heads `gain` and `saving`, each one linear layer. `model` gives risks and dissent."""
    disputes = labels.where(labels.with_disagreement)
    f_UF, place_N = distinct(disputes.features_NF)
    risks = model.predict(f_UF)
    assert risks.rho1 is not None
    assert risks.rhoT is not None
    assert risks.dissent is not None
    inputs_UI = effect_inputs(risks.rho, risks.rho1, risks.rhoT, risks.dissent, model.scaler(f_UF))
    targets = {"gain": disputes.success_gained, "saving": 1.0 + disputes.calls_saved}
    return {
        name: _ridge(inputs_UI[place_N], target_N, disputes.pairs * disputes.weight)
        for name, target_N in targets.items()
    }


def _ridge(inputs_NI: Array, target_N: Array, weight_N: Array) -> Mlp:
    """Weighted ridge regression on standardised inputs, as a layer on the inputs as they are."""
    mean_I = np.average(inputs_NI, axis=0, weights=weight_N)
    variance_I = np.average((inputs_NI - mean_I) ** 2, axis=0, weights=weight_N)
    std_I = np.sqrt(variance_I) + 1e-9
    z_NI = (inputs_NI - mean_I) / std_I
    mean_target = float(np.average(target_N, weights=weight_N))

    weighted_IN = z_NI.T * weight_N
    penalty_II = STRENGTH * weight_N.sum() * np.eye(len(mean_I))
    moment_I = weighted_IN @ (target_N - mean_target)
    slope_I = np.linalg.solve(weighted_IN @ z_NI + penalty_II, moment_I) / std_I
    intercept = mean_target - float(slope_I @ mean_I)
    return Mlp(((slope_I[None], np.array([intercept])),))
