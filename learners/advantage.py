"""The advantage of a teacher's step to an agent that may ask again later (METHOD section 7: re-roll online each round).

    A(x) = kappa (S_T - S_S) + (M_S - M_T)

S and M are success and teacher steps of pairs of branches from x in which the first round's router goes on after the teacher's
action (T) or the SLM's (S), under common random numbers. It is the gain of one policy improvement step on  kappa x failure + calls:
escalate where it is positive. Linear in risks and dissent, which far more labels have taught, and in the features; ridge, its strength
chosen on validation labels. A closed form of the whole table: every number of ranks gives the same.
"""

import numpy as np
import numpy.typing as npt

from learners.router_data import distinct
from r2v_dist.labels import LabelTable
from r2v_dist.router_model import Mlp, RouterModel, advantage_inputs

Array = npt.NDArray[np.float64]
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Ridge penalties as shares of the total weight."""


def fit_advantage(model: RouterModel, train: LabelTable, validation: LabelTable, kappa: float) -> Mlp:
    """The head as one linear layer. `model` gives risks and dissent."""
    inputs_NI, gain_N, weight_N = _examples(model, train, kappa)
    held_NI, held_gain_N, held_weight_N = _examples(model, validation, kappa)
    mean_I, mean = np.average(inputs_NI, axis=0, weights=weight_N), float(np.average(gain_N, weights=weight_N))
    std_I = np.sqrt(np.average((inputs_NI - mean_I) ** 2, axis=0, weights=weight_N)) + 1e-9
    z_NI = (inputs_NI - mean_I) / std_I
    covariance_II, moment_I = (z_NI.T * weight_N) @ z_NI, (z_NI.T * weight_N) @ (gain_N - mean)

    def layer(strength: float) -> tuple[Array, float]:
        slope_I = np.linalg.solve(covariance_II + strength * weight_N.sum() * np.eye(len(mean_I)), moment_I) / std_I
        return slope_I, mean - float(slope_I @ mean_I)

    def loss(slope_I: Array, offset: float) -> float:
        return float((held_weight_N * (held_NI @ slope_I + offset - held_gain_N) ** 2).sum())

    slope_I, offset = min(map(layer, STRENGTHS), key=lambda pair: loss(*pair))
    return Mlp(((slope_I[None], np.array([offset])),))


def _examples(model: RouterModel, labels: LabelTable, kappa: float) -> tuple[Array, Array, Array]:
    """Inputs, gains in teacher calls and weights of the states with pairs."""
    known = labels.where(labels.pairs > 0)
    f_UF, place_N = distinct(known.features_NF)
    said = model.predict(f_UF)
    assert said.rho1 is not None
    assert said.rhoT is not None
    assert said.dissent is not None
    f_UF = (f_UF - model.mean_F) / model.std_F
    inputs_NI = advantage_inputs(said.rho, said.rho1, said.rhoT, said.dissent, f_UF)[place_N]
    return inputs_NI, kappa * known.success_gained + known.calls_saved, known.pairs * known.weight
