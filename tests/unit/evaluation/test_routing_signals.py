"""What routes: rank correlations by definition, clipping by hand, words from the numbers."""

import itertools

import numpy as np
import pytest

from r2v_dist.evaluation.routing_signals import (
    RoutingSignals,
    clipped_shares,
    mid_ranks,
    routing_signals,
    spearman,
)
from r2v_dist.router.advantage import LEAST_COST, LEAST_GAIN, advantage, effect_inputs
from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import ESTIMATES, RouterModel
from r2v_dist.router.names import Score
from r2v_dist.router.scaler import Scaler

F = len(FEATURE_NAMES)
EFFECTS = 6


def risk_head(rng: np.random.Generator) -> Mlp:
    sizes = itertools.pairwise((F, 5, 1))
    return Mlp(tuple((rng.normal(size=(o, i)), rng.normal(size=o)) for i, o in sizes))


def effect_head(offset: float, rng: np.random.Generator) -> Mlp:
    return Mlp(((rng.normal(size=(1, EFFECTS)), np.array([offset])),))


def model(score: Score) -> RouterModel:
    rng = np.random.default_rng(0)
    heads = {name: risk_head(rng) for name in ESTIMATES}
    heads |= {"gain": effect_head(0.1, rng), "saving": effect_head(2.5, rng)}
    scaler = Scaler.unlimited(np.zeros(F), np.ones(F))
    return RouterModel("m", "decoupled", scaler, heads, {}, score=score)


def test_ranks_are_those_of_the_definition() -> None:
    x_N = np.array([3.0, 1.0, 3.0, 2.0, 3.0, 1.0])
    expected = [(x_N < x).sum() + ((x_N == x).sum() + 1) / 2 for x in x_N]
    assert mid_ranks(x_N).tolist() == expected


def test_without_ties_it_is_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    x_N, y_N = rng.permutation(50).astype(float), rng.permutation(50).astype(float)
    gaps_N = x_N - y_N
    closed = 1 - 6 * (gaps_N @ gaps_N) / (50 * (50**2 - 1))
    assert spearman(x_N, y_N) == pytest.approx(closed)
    assert spearman(np.exp(x_N / 10), y_N) == pytest.approx(closed)
    assert spearman(x_N, -x_N) == pytest.approx(-1.0)


def test_with_ties_it_is_the_correlation_of_ranks_and_a_constant_has_none() -> None:
    rng = np.random.default_rng(2)
    x_N = rng.integers(0, 4, 300).astype(float)
    y_N = x_N + rng.integers(0, 3, 300)
    expected = np.corrcoef(mid_ranks(x_N), mid_ranks(y_N))[0, 1]
    assert spearman(x_N, y_N) == pytest.approx(expected)
    assert spearman(x_N, np.zeros(300)) is None


def test_every_estimate_is_correlated_with_the_score_that_routes() -> None:
    router = model("advantage")
    features_NF = np.random.default_rng(3).normal(size=(400, F))
    found = routing_signals("r2v", router, features_NF, 1, "alone")
    said = router.predict(features_NF)
    assert found is not None
    assert said.rho1 is not None
    assert said.rhoT is not None
    assert said.dissent is not None
    x_NI = effect_inputs(said.rho, said.rho1, said.rhoT, said.dissent, features_NF)
    gain_N, saving_N = router.heads["gain"](x_NI), router.heads["saving"](x_NI)
    assert said.score.tolist() == advantage(said.dissent, gain_N, saving_N).tolist()
    by_hand = {
        "rho": said.rho,
        "rho1": said.rho1,
        "rhoT": said.rhoT,
        "value": said.rho - said.rho1,
        "dissent": said.dissent,
        "gain": gain_N,
        "saving": saving_N,
    }
    assert set(found.correlations) == set(by_hand)
    for name, values_N in by_hand.items():
        assert found.correlations[name] == spearman(said.score, values_N)
    assert found.clipped_cost == np.mean(1 - said.dissent * saving_N < LEAST_COST)
    assert found.clipped_gain == np.mean(gain_N < LEAST_GAIN)
    assert 0 < found.clipped_cost < 1
    assert 0 < found.clipped_gain < 1


def test_a_score_that_is_no_ratio_has_no_clipped_share() -> None:
    features_NF = np.random.default_rng(3).normal(size=(40, F))
    for score, leading in (("risk", "rho"), ("dissent", "dissent"), ("value", "value")):
        found = routing_signals("r2v", model(score), features_NF, 0, "alone")
        assert found is not None
        assert (found.clipped_cost, found.clipped_gain) == (None, None)
        assert found.correlations[leading] == pytest.approx(1.0)
        assert "routes: it is the score" in found.words
        assert ("with the residual risk" in found.words) == (score != "risk")
    assert clipped_shares(model("risk").predict(features_NF)) == (None, None)
    assert routing_signals("r2v", model("risk"), np.zeros((0, F)), 0, "alone") is None


def test_the_words_say_by_what_validation_chose_the_score() -> None:
    areas = {"risk": 0.9244, "value": 0.93, "dissent": 0.5}
    features_NF = np.random.default_rng(3).normal(size=(40, F))
    found = routing_signals("r2v", model("value"), features_NF, 0, "alone", areas)
    assert found is not None
    choice = "validation chose: frontier area 0.930; risk 0.924, dissent 0.500"
    assert "it is the score (with the residual risk" in found.words
    assert found.words.endswith(f", which {choice}")


def test_the_words_follow_from_the_numbers() -> None:
    def words(**correlations: float | None) -> str:
        return RoutingSignals("r2v", 0, "alone", 9, "advantage", correlations, 0.3, 0.0).words

    assert words(rho=0.62, dissent=0.95).startswith("disagreement with the teacher routes")
    assert "0.95, with the residual risk 0.62" in words(rho=0.62, dissent=0.95)
    assert words(rho=0.93, dissent=0.4).startswith("the residual risk routes")
    assert words(rho=0.62, dissent=0.4).startswith("no single signal routes")
    assert words(rho=-0.95, dissent=0.4).startswith("no single signal routes")
    assert words(rho=0.1, dissent=0.2).startswith("no estimate alone explains")
    assert "does not tell" in words(rho=None, dissent=None)
