"""The exported router against a literal forward pass, and its refusals."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from r2v_dist.errors import UsageError
from r2v_dist.router.calibration import Array, Calibrator
from r2v_dist.router.features import FEATURE_NAMES
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.model import Mode, RouterModel
from r2v_dist.router.scaler import Scaler

F = len(FEATURE_NAMES)


def mlp(rng: np.random.Generator, *sizes: int) -> Mlp:
    return Mlp(
        tuple(
            (rng.normal(size=(o, i)) / math.sqrt(i), rng.normal(size=o))
            for i, o in itertools.pairwise(sizes)
        )
    )


def router(mode: Mode = "decoupled") -> RouterModel:
    rng = np.random.default_rng(0)
    heads = {"rho": mlp(rng, F, 8, 5, 1)}
    if mode == "decoupled":
        heads |= {
            "rho1": mlp(rng, F, 8, 5, 1),
            "rhoT": mlp(rng, F, 8, 5, 1),
            "policy": mlp(rng, F + 3, 6, 1),
        }
    calibrators = {
        "rho": Calibrator("platt", 0.8, 0.1),
        "rho1": Calibrator("isotonic", x=(0.2, 0.8), y=(0.1, 0.7)),
    }
    mean_F, std_F = rng.normal(size=F), rng.uniform(0.5, 2, F)
    return RouterModel(
        "r-1", mode, Scaler(mean_F, std_F, mean_F - std_F, mean_F + std_F), heads, calibrators
    )


def scaled(model: RouterModel, state: list[float]) -> list[float]:
    """A state as the networks take it, in plain Python."""
    scale = model.scaler
    limits = zip(scale.low_F.tolist(), scale.high_F.tolist(), strict=True)
    cut = [min(max(x, low), high) for x, (low, high) in zip(state, limits, strict=True)]
    moments = zip(scale.mean_F.tolist(), scale.std_F.tolist(), strict=True)
    return [(x - mean) / std for x, (mean, std) in zip(cut, moments, strict=True)]


def by_hand(net: Mlp, x: list[float]) -> float:
    """One state, in plain Python."""
    for i, (weight, bias) in enumerate(net.layers):
        x = [
            sum(w * v for w, v in zip(row, x, strict=True)) + b
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
        if i < len(net.layers) - 1:
            x = [a / (1 + math.exp(-a)) for a in x]
    return 1 / (1 + math.exp(-x[0]))


def test_predictions_are_the_documented_forward_pass() -> None:
    model, f = router(), np.random.default_rng(1).normal(size=(3, F))
    predicted = model.predict(f)
    assert predicted.rho1 is not None
    assert predicted.rhoT is not None
    for i in range(3):
        x = scaled(model, f[i].tolist())
        raw = by_hand(model.heads["rho"], x)
        rho = 1 / (1 + math.exp(-(0.8 * math.log(raw / (1 - raw)) + 0.1)))
        rho1 = float(np.interp(by_hand(model.heads["rho1"], x), [0.2, 0.8], [0.1, 0.7]))
        rhoT = by_hand(model.heads["rhoT"], x)
        score = by_hand(model.heads["policy"], [rho, rho1, rhoT, *x])
        got = [
            float(values[i])
            for values in (predicted.rho, predicted.rho1, predicted.rhoT, predicted.score)
        ]
        assert got == pytest.approx([rho, rho1, rhoT, score], rel=1e-9)


def test_a_state_beyond_the_training_range_is_judged_as_the_nearest_within() -> None:
    model = router()
    scale = model.scaler
    far_NF = scale.mean_F + np.array([[40.0], [-40.0]]) * scale.std_F
    near_NF = np.stack([scale.high_F, scale.low_F])
    np.testing.assert_array_equal(model.predict(far_NF).score, model.predict(near_NF).score)
    assert scale.outside(far_NF).all()
    assert not scale.outside(near_NF).any()


def test_a_router_of_before_the_range_was_stored_cuts_nothing(tmp_path: Path) -> None:
    model, f = router(), np.random.default_rng(1).normal(size=(3, F)) * 9.0
    model.save(tmp_path)
    weights = tmp_path / "router.safetensors"
    kept = {k: v for k, v in load_file(weights).items() if k not in ("scaler.low", "scaler.high")}
    save_file(kept, weights)
    uncut = replace(model, scaler=Scaler.unlimited(model.scaler.mean_F, model.scaler.std_F))
    loaded = RouterModel.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict(f).score, uncut.predict(f).score)
    assert (loaded.predict(f).score != model.predict(f).score).all()


def linear(head: Mlp, inputs: list[float]) -> float:
    [(weight, bias)] = head.layers
    return sum(w * v for w, v in zip(weight[0].tolist(), inputs, strict=True)) + float(bias[0])


def test_the_advantage_is_success_for_a_call(tmp_path: Path) -> None:
    rng, plain = np.random.default_rng(3), router()
    heads = plain.heads | {
        "dissent": mlp(rng, F, 8, 5, 1),
        "gain": mlp(rng, 6, 1),
        "saving": mlp(rng, 6, 1),
    }
    replace(plain, heads=heads, score="advantage").save(tmp_path)
    model, f = RouterModel.load(tmp_path), rng.normal(size=(9, F))
    predicted = model.predict(f)
    step, calls = (FEATURE_NAMES.index(name) for name in ("t", "escalations"))
    for i in range(9):
        x = scaled(model, f[i].tolist())
        risks = [
            float(values[i])
            for values in (predicted.rho, predicted.rho1, predicted.rhoT)
            if values is not None
        ]
        d = by_hand(heads["dissent"], x)
        gain, saving = (
            linear(heads[name], [*risks, d, x[step], x[calls]]) for name in ("gain", "saving")
        )
        assert predicted.dissent is not None
        assert float(predicted.dissent[i]) == pytest.approx(d, rel=1e-9)
        assert float(predicted.score[i]) == pytest.approx(
            d * max(gain, 0.01) / max(1 - d * saving, 0.1), rel=1e-9
        )
    assert len(set(predicted.score.tolist())) > 3
    np.testing.assert_array_equal(predicted.rho, plain.predict(f).rho)
    np.testing.assert_array_equal(
        replace(model, score="dissent").predict(f).score, predicted.dissent
    )
    by_dissent = model.by("dissent")
    assert (by_dissent.score, by_dissent.version) == ("dissent", f"{model.version}-dissent")
    for score in ("dissent", "advantage"):
        assert model.can_score_by(score)
        assert not plain.can_score_by(score)
        with pytest.raises(ValueError, match=f"no heads for the score {score}"):
            replace(plain, score=score)
    described = json.loads((tmp_path / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps({**described, "effect_features": ["t"]}))
    with pytest.raises(UsageError, match=r"effect_features: .*train the router again"):
        RouterModel.load(tmp_path)


def test_a_joint_router_scores_by_its_risk() -> None:
    predicted = router("joint").predict(np.zeros((2, F)))
    np.testing.assert_array_equal(predicted.score, predicted.rho)
    assert predicted.rho1 is None


@pytest.mark.parametrize("mode", ["joint", "decoupled"])
def test_a_saved_router_predicts_the_same_bits(mode: Mode, tmp_path: Path) -> None:
    model, f = router(mode), np.random.default_rng(1).normal(size=(5, F))
    model.save(tmp_path / "router")
    again = RouterModel.load(tmp_path / "router")
    np.testing.assert_array_equal(again.predict(f).score, model.predict(f).score)
    assert (again.version, again.mode, again.calibrators) == (
        model.version,
        model.mode,
        model.calibrators,
    )


def test_other_features_are_refused(tmp_path: Path) -> None:
    router().save(tmp_path)
    described = tmp_path / "router.json"
    original = json.loads(described.read_text())
    described.write_text(json.dumps(original | {"feature_version": "0"}))
    with pytest.raises(UsageError, match=r"feature_version = '0' .*train the router again"):
        RouterModel.load(tmp_path)
    described.write_text(json.dumps(original | {"feature_names": [*FEATURE_NAMES[:-1], "seed"]}))
    with pytest.raises(UsageError, match="they differ in budget_left, seed"):
        RouterModel.load(tmp_path)
    with pytest.raises(UsageError, match=r"no router\.json"):
        RouterModel.load(tmp_path / "none")
    with pytest.raises(ValueError, match="differ in their layer sizes"):
        replace(router(), heads=router().heads | {"rho1": mlp(np.random.default_rng(0), F, 4, 1)})
    wrong: Array = np.zeros((1, F - 1))
    with pytest.raises(ValueError, match="features"):
        router().predict(wrong)
