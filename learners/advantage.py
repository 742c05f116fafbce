"""What a step of the teacher gains and saves where it is another one than the SLM's (METHOD section 7: re-roll online each round).

Pairs of branches tell: the first round's router goes on after the teacher's action (T) or the SLM's (S), under common random numbers,
with success S_T, S_S and teacher steps M_T, M_S. Where both actions are one, both branches are one world, and the step costs its call
and changes nothing; so only states with dissent teach

    gain = S_T - S_S        saving = 1 + M_S - M_T

and the score is d gain / (1 - d saving) with the probability of dissent d: the success for a call at which  kappa x failure + calls
stays the same, whatever kappa. Ridge, its strength chosen on validation labels, is a closed form of the whole table: every number of
ranks gives the same.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learners.router_data import distinct
from r2v_dist.labels import LabelTable
from r2v_dist.router_model import Mlp, RouterModel, effect_inputs

Array = npt.NDArray[np.float64]
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Ridge penalties as shares of the total weight; the last leaves little but the mean."""


def fit_effects(model: RouterModel, train: LabelTable, validation: LabelTable) -> dict[str, Mlp]:
    """The heads `gain` and `saving`, each one linear layer. `model` gives risks and dissent."""
    shown, held_out = _Examples.of(model, train), _Examples.of(model, validation)
    targets = {"gain": (shown.gain_N, held_out.gain_N), "saving": (shown.saving_N, held_out.saving_N)}
    return {name: _ridge(shown, target_N, held_out, held_N) for name, (target_N, held_N) in targets.items()}


@dataclass(frozen=True)
class _Examples:
    """The disputed states."""

    inputs_NI: Array
    gain_N: Array
    saving_N: Array
    weight_N: Array

    @classmethod
    def of(cls, model: RouterModel, labels: LabelTable) -> "_Examples":
        known = labels.where(labels.disputed)
        f_UF, place_N = distinct(known.features_NF)
        said = model.predict(f_UF)
        assert said.rho1 is not None
        assert said.rhoT is not None
        assert said.dissent is not None
        inputs_UI = effect_inputs(said.rho, said.rho1, said.rhoT, said.dissent, (f_UF - model.mean_F) / model.std_F)
        return cls(inputs_UI[place_N], known.success_gained, 1.0 + known.calls_saved, known.pairs * known.weight)


def _ridge(shown: _Examples, target_N: Array, held_out: _Examples, held_N: Array) -> Mlp:
    weight_N = shown.weight_N
    mean_I, mean = np.average(shown.inputs_NI, axis=0, weights=weight_N), float(np.average(target_N, weights=weight_N))
    std_I = np.sqrt(np.average((shown.inputs_NI - mean_I) ** 2, axis=0, weights=weight_N)) + 1e-9
    z_NI = (shown.inputs_NI - mean_I) / std_I
    covariance_II, moment_I = (z_NI.T * weight_N) @ z_NI, (z_NI.T * weight_N) @ (target_N - mean)

    def layer(strength: float) -> tuple[Array, float]:
        slope_I = np.linalg.solve(covariance_II + strength * weight_N.sum() * np.eye(len(mean_I)), moment_I) / std_I
        return slope_I, mean - float(slope_I @ mean_I)

    def loss(slope_I: Array, offset: float) -> float:
        return float((held_out.weight_N * (held_out.inputs_NI @ slope_I + offset - held_N) ** 2).sum())

    slope_I, offset = min(map(layer, STRENGTHS), key=lambda pair: loss(*pair))
    return Mlp(((slope_I[None], np.array([offset])),))
