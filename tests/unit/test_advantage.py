"""The advantage of a teacher's step: recovered where it is known, given up where the labels are noise."""

import itertools
import math

import numpy as np
import pytest

from learners.advantage import fit_advantage
from r2v_dist.features import FEATURE_NAMES
from r2v_dist.labels import LabelTable
from r2v_dist.router_model import ESTIMATES, Mlp, RouterModel, advantage_inputs

F = len(FEATURE_NAMES)
TRUTH = np.array([0.5, -0.25, 0.0, 2.0, -1.0, 1.5, 0.3, *np.zeros(F - 2), -0.2])


def model() -> RouterModel:
    rng = np.random.default_rng(0)

    def head() -> Mlp:
        return Mlp(tuple((3 * rng.normal(size=(o, i)) / math.sqrt(i), rng.normal(size=o)) for i, o in itertools.pairwise((F, 8, 1))))

    return RouterModel("m", "decoupled", np.zeros(F), np.ones(F), {name: head() for name in ESTIMATES}, {}, score="value")


def inputs(known: RouterModel, features_NF: np.ndarray) -> np.ndarray:
    said = known.predict(features_NF)
    assert said.rho1 is not None
    assert said.rhoT is not None
    assert said.dissent is not None
    return advantage_inputs(said.rho, said.rho1, said.rhoT, said.dissent, features_NF)


def table(states: int, seed: int, known: RouterModel, noise: float) -> LabelTable:
    """Pairs whose calls saved are TRUTH on the inputs, and a state without a pair."""
    rng = np.random.default_rng(seed)
    features_NF = rng.normal(size=(states, F))
    saved_N = inputs(known, features_NF) @ TRUTH - 1 + noise * rng.normal(size=states)
    constant = {"split": "train", "z": 1, "t": 0, "source": "r2v", "n_s": 0, "s_s": 0, "n_t1": 0, "s_t1": 0, "n_tinf": 0, "s_tinf": 0}
    constant |= {"m_tinf": math.nan, "differs": True, "s_rs": 0, "s_rt": 0, "own_success": None, "episode": "e", "weight": 1.0}
    columns = {name: [value] * states for name, value in constant.items()}
    names = [f"task {i}" for i in range(states)]
    pairs = np.minimum(np.arange(states), 1)
    columns |= {"task": names, "prefix": list(range(states)), "features": features_NF}
    columns |= {"n_r": pairs, "m_rs": np.where(pairs > 0, saved_N, math.nan), "m_rt": np.where(pairs > 0, 0.0, math.nan)}
    return LabelTable.of_columns(columns)


def test_a_known_advantage_is_found_again() -> None:
    known = model()
    fitted = fit_advantage(known, table(3000, 1, known, 0.5), table(500, 2, known, 0.5), kappa=7.0)
    fresh = inputs(known, np.random.default_rng(3).normal(size=(400, F)))
    expected = fresh @ TRUTH - 1
    assert np.corrcoef(fitted(fresh), expected)[0, 1] > 0.98
    assert np.abs(fitted(fresh) - expected).mean() < 0.1 * expected.std() + 0.05


def test_noise_is_shrunk_towards_the_mean() -> None:
    known = model()
    loud = fit_advantage(known, table(60, 1, known, 40.0), table(500, 2, known, 40.0), kappa=7.0)
    fresh = inputs(known, np.random.default_rng(3).normal(size=(400, F)))
    assert loud(fresh).std() < 4.0


def test_a_failure_costs_kappa_calls() -> None:
    known = model()
    labels = table(200, 1, known, 0.0)
    won = labels.table.set_column(labels.table.schema.get_field_index("s_rt"), labels.table.schema.field("s_rt"), labels.table["n_r"])
    fresh = inputs(known, np.random.default_rng(3).normal(size=(50, F)))
    plain, saved = (fit_advantage(known, one, one, kappa=7.0)(fresh) for one in (labels, LabelTable(won)))
    assert saved - plain == pytest.approx(np.full(50, 7.0), abs=1e-6)
