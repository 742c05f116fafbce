"""What a teacher's step gains and saves: recovered where it is known, given up where the labels are
noise.
"""

import itertools
import math

import numpy as np
import pytest

from learners.router.teacher_effects import STRENGTH, fit_effects
from r2v_dist.labels.table import LabelTable
from r2v_dist.router.advantage import LEAST_COST, LEAST_GAIN, advantage, effect_inputs
from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import ESTIMATES, RouterModel
from r2v_dist.router.scaler import Scaler

F = len(FEATURE_NAMES)
TRUTH = np.array([0.5, -0.25, 0.0, 2.0, 0.3, -0.2])


def model() -> RouterModel:
    rng = np.random.default_rng(0)

    def head() -> Mlp:
        return Mlp(
            tuple(
                (3 * rng.normal(size=(o, i)) / math.sqrt(i), rng.normal(size=o))
                for i, o in itertools.pairwise((F, 8, 1))
            )
        )

    return RouterModel(
        "m",
        "decoupled",
        Scaler.unlimited(np.zeros(F), np.ones(F)),
        {name: head() for name in ESTIMATES},
        {},
        score="value",
    )


def inputs(known: RouterModel, features_NF: np.ndarray) -> np.ndarray:
    said = known.predict(features_NF)
    assert said.rho1 is not None
    assert said.rhoT is not None
    assert said.dissent is not None
    return effect_inputs(said.rho, said.rho1, said.rhoT, said.dissent, features_NF)


def table(states: int, seed: int, known: RouterModel, noise: float) -> LabelTable:
    """Pairs whose saving is TRUTH on the inputs and that gain half a success. The first state has
    no pair; in every tenth the teacher agrees, and what its pair shows there is nonsense.
    """
    rng = np.random.default_rng(seed)
    features_NF = rng.normal(size=(states, F))
    differs = np.arange(states) % 10 > 0
    saved_N = np.where(
        differs, inputs(known, features_NF) @ TRUTH - 1 + noise * rng.normal(size=states), 1000.0
    )
    constant = {
        "split": "train",
        "z": 1,
        "t": 0,
        "source": "r2v",
        "n_s": 0,
        "s_s": 0,
        "n_t1": 0,
        "s_t1": 0,
        "n_tinf": 0,
        "s_tinf": 0,
    }
    constant |= {"m_tinf": math.nan, "s_rs": 0, "own_success": None, "episode": "e", "weight": 1.0}
    columns = {name: [value] * states for name, value in constant.items()}
    pairs = 2 * np.minimum(np.arange(states), 1)
    columns |= {
        "task": [f"task {i}" for i in range(states)],
        "prefix": list(range(states)),
        "features": features_NF,
    }
    columns |= {"differs": differs, "n_r": pairs, "s_rt": pairs // 2}
    columns |= {
        "m_rs": np.where(pairs > 0, saved_N, math.nan),
        "m_rt": np.where(pairs > 0, 0.0, math.nan),
    }
    return LabelTable.of_columns(columns)


def test_known_effects_are_found_again_at_half_their_size_and_agreement_teaches_nothing() -> None:
    known = model()
    fitted = fit_effects(known, table(20_000, 1, known, 0.5))
    fresh = inputs(known, np.random.default_rng(3).normal(size=(400, F)))
    slope, expected = np.polyfit(fresh @ TRUTH, fitted["saving"](fresh), 1)[0], fresh @ TRUTH
    assert np.corrcoef(fitted["saving"](fresh), expected)[0, 1] > 0.98
    assert slope == pytest.approx(1 / (1 + STRENGTH), abs=0.05)
    assert fitted["saving"](fresh).mean() == pytest.approx(expected.mean(), abs=0.1)
    assert fitted["gain"](fresh) == pytest.approx(np.full(400, 0.5), abs=1e-6)


def test_noise_is_shrunk_towards_the_mean() -> None:
    known = model()
    loud = fit_effects(known, table(60, 1, known, 40.0))
    fresh = inputs(known, np.random.default_rng(3).normal(size=(400, F)))
    assert loud["saving"](fresh).std() < 10.0


def test_the_score_is_the_price_at_which_a_step_just_pays() -> None:
    rng = np.random.default_rng(4)
    dissent, gain, saving = (
        rng.random(1000),
        rng.uniform(LEAST_GAIN, 1, 1000),
        rng.uniform(-1, 0.9, 1000),
    )
    score = advantage(dissent, gain, saving)
    # kappa x failures + calls: with kappa = 1 / score, what the step gains is worth what it costs.
    net = dissent * (gain / score + saving) - 1.0
    assert net == pytest.approx(np.zeros(1000), abs=1e-9)
    assert advantage(np.ones(1), np.ones(1), np.full(1, 3.0)) == pytest.approx(1 / LEAST_COST)
    assert advantage(np.ones(1), -np.ones(1), np.zeros(1)) == pytest.approx(LEAST_GAIN)


def test_where_no_step_gains_anything_the_calls_it_saves_still_order_states() -> None:
    few, more, sure = advantage(np.array([0.5, 0.5, 0.9]), np.zeros(3), np.array([0.2, 0.8, 0.8]))
    assert 0 < few < more < sure
