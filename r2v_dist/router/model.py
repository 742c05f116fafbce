"""The exported router: a folder that numpy alone can run, and that refuses features it was not
trained on.

`router.safetensors` holds `scaler.mean`, `scaler.std`, `scaler.low` and `scaler.high`, each [F]
(routers of older versions have no low and high, and cut nothing), and for every head, in float64,
`<head>.<layer>.weight` [out, in] and `<head>.<layer>.bias` [out], layers counted from 0. Layers are
joined by SiLU; the last has one output, whose sigmoid is the head's.
`router.json` holds the feature names and version, the mode, the score, `effect_features`, the
router's version and the calibrator of each risk head.

Heads, all on standardised features (f - mean) / std, f cut to [low, high] (`scaler.Scaler`):
  decoupled  `rho`, `rho1`, `rhoT`, and `policy` on the concatenation (rho, rho1, rhoT after
             calibration, standardised f)
  joint      `rho` alone
Where the labels say what the teacher would have done there is `dissent` too, the probability that
it is not what the SLM does; and where they say how a router goes on after either, `gain` and
`saving`, linear in (rho, rho1, rhoT, dissent, `advantage.EFFECT_FEATURES`): success gained and
later calls saved by a step of the teacher that is not the SLM's. Risks and dissent have equal layer
sizes; their logits are clipped to +-`calibration.LOGIT_EDGE` before calibration. The score is the
calibrated rho when joint; when decoupled `router.json` says which: the policy's output (`policy`),
rho (`risk`), rho - rho1 (`value`, what one step of the teacher is worth to an SLM that never asks
again), `dissent`, or `advantage`, the success that a step gains for every call it costs, to an
agent that may ask again later. Escalate iff score >= threshold.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from r2v_dist import files
from r2v_dist.errors import DamagedFile, UsageError
from r2v_dist.router.advantage import EFFECT_FEATURES, advantage, effect_inputs
from r2v_dist.router.calibration import LOGIT_EDGE, Calibrator, sigmoid
from r2v_dist.router.features import FEATURE_NAMES, FEATURE_VERSION
from r2v_dist.router.mlp import Mlp
from r2v_dist.router.names import Score
from r2v_dist.router.scaler import Scaler

Array = npt.NDArray[np.float64]
Mode = Literal["joint", "decoupled"]
RISKS = ("rho", "rho1", "rhoT")
ESTIMATES = (*RISKS, "dissent")
"""Probabilities that are learned from labels, risks by their Brier scores and dissent by its log
loss.
"""
_DESCRIBED = {
    "version",
    "mode",
    "score",
    "feature_version",
    "feature_names",
    "layers",
    "calibrators",
}
_HEADS_OF: dict[Score, tuple[str, ...]] = {
    "dissent": ("dissent",),
    "advantage": ("dissent", "gain", "saving"),
}


@dataclass(frozen=True)
class RiskPrediction:
    """Calibrated risks, the score and the calibrated dissent, each [N]; a joint router has neither
    rho1 nor rhoT.

    Gain and saving are those of an `advantage` score, whose numerator and denominator are made of
    them.
    """

    rho: Array
    rho1: Array | None
    rhoT: Array | None
    score: Array
    dissent: Array | None = None
    gain: Array | None = None
    saving: Array | None = None


@dataclass(frozen=True)
class RouterModel:
    """A trained router. `heads` and `calibrators` are by the names of the module's docstring."""

    version: str
    mode: Mode
    scaler: Scaler
    heads: dict[str, Mlp]
    calibrators: dict[str, Calibrator]
    feature_names: tuple[str, ...] = FEATURE_NAMES
    feature_version: str = FEATURE_VERSION
    score: Score = "policy"

    def __post_init__(self) -> None:
        if (
            len(
                {
                    tuple(weight.shape for weight, _ in mlp.layers)
                    for name, mlp in self.heads.items()
                    if name in ESTIMATES
                }
            )
            != 1
        ):
            raise ValueError(f"router {self.version}: its risk heads differ in their layer sizes")
        if not self.can_score_by(self.score):
            raise ValueError(f"router {self.version}: no heads for the score {self.score}")

    def can_score_by(self, score: Score) -> bool:
        """Whether the router has the heads of a score."""
        return set(_HEADS_OF.get(score, ())) <= set(self.heads)

    def by(self, score: Score) -> Self:
        """The same networks with another score. Raises ValueError where they lack its heads."""
        return replace(self, score=score, version=f"{self.version}-{score}")

    def predict(self, features_NF: Array) -> RiskPrediction:
        """Risks and score at N states. Raises ValueError for another number of features."""
        if features_NF.ndim != 2 or features_NF.shape[1] != len(self.feature_names):
            raise ValueError(
                f"router {self.version} takes [N, {len(self.feature_names)}] features, not "
                f"{features_NF.shape}"
            )
        inputs_NI = np.empty((features_NF.shape[0], len(RISKS) + features_NF.shape[1]))
        f_NF = self.scaler(features_NF, inputs_NI[:, len(RISKS) :])
        logits_HN = np.minimum(np.maximum(self._risk_heads(f_NF), -LOGIT_EDGE), LOGIT_EDGE)
        slope_H1, offset_H1 = self._risk_slopes
        risks = [
            c.pooled(q_N)
            for c, q_N in zip(
                self._risk_calibrators, sigmoid(slope_H1 * logits_HN + offset_H1), strict=True
            )
        ]
        if self.mode == "joint":
            return RiskPrediction(risks[0], None, None, risks[0])
        (rho, rho1, rhoT), dissent = risks[: len(RISKS)], next(iter(risks[len(RISKS) :]), None)
        if self.score == "advantage":
            assert dissent is not None
            x_NI = effect_inputs(rho, rho1, rhoT, dissent, inputs_NI[:, len(RISKS) :])
            gain = self.heads["gain"](x_NI)
            saving = self.heads["saving"](x_NI)
            return RiskPrediction(
                rho, rho1, rhoT, advantage(dissent, gain, saving), dissent, gain, saving
            )
        return RiskPrediction(
            rho, rho1, rhoT, self._score(rho, rho1, rhoT, dissent, inputs_NI), dissent
        )

    def _score(
        self, rho: Array, rho1: Array, rhoT: Array, dissent: Array | None, inputs_NI: Array
    ) -> Array:
        """Of a decoupled router that needs no effects; `inputs_NI` has the standardised features in
        its last columns.
        """
        if self.score == "risk":
            return rho
        if self.score == "value":
            return rho - rho1
        if self.score == "dissent":
            assert dissent is not None
            return dissent
        inputs_NI[:, 0], inputs_NI[:, 1], inputs_NI[:, 2] = rho, rho1, rhoT
        return sigmoid(self.heads["policy"](inputs_NI))

    @cached_property
    def _risk_heads(self) -> Mlp:
        heads = [self.heads[name].layers for name in ESTIMATES if name in self.heads]
        return Mlp(
            tuple(
                (np.stack([w for w, _ in layer]), np.stack([b for _, b in layer]))
                for layer in zip(*heads, strict=True)
            )
        )

    @cached_property
    def _risk_calibrators(self) -> list[Calibrator]:
        return [
            self.calibrators.get(name, Calibrator()) for name in ESTIMATES if name in self.heads
        ]

    @cached_property
    def _risk_slopes(self) -> tuple[Array, Array]:
        """Slope and offset of every head's calibrator, each [H, 1]."""
        return np.array([[c.slope] for c in self._risk_calibrators]), np.array(
            [[c.offset] for c in self._risk_calibrators]
        )

    def save(self, path: Path) -> None:
        """Write the folder `path`; the JSON comes last, so that a folder with it is complete."""
        path.mkdir(parents=True, exist_ok=True)
        scale = self.scaler
        tensors = {
            "scaler.mean": scale.mean_F,
            "scaler.std": scale.std_F,
            "scaler.low": scale.low_F,
            "scaler.high": scale.high_F,
        }
        for head, mlp in self.heads.items():
            for i, (weight, bias) in enumerate(mlp.layers):
                tensors |= {f"{head}.{i}.weight": weight, f"{head}.{i}.bias": bias}
        description = {
            "version": self.version,
            "mode": self.mode,
            "score": self.score,
            "feature_version": self.feature_version,
            "feature_names": self.feature_names,
            "effect_features": EFFECT_FEATURES,
            "layers": {head: len(mlp.layers) for head, mlp in self.heads.items()},
            "calibrators": {
                name: calibrator.to_json() for name, calibrator in self.calibrators.items()
            },
        }
        weights = path / "router.safetensors"
        save_file(
            {
                name: np.ascontiguousarray(values, dtype=np.float64)
                for name, values in tensors.items()
            },
            weights,
        )
        files.sync(weights)
        files.write_atomically(path / "router.json", json.dumps(description, indent=1) + "\n")

    @classmethod
    def load(
        cls,
        path: Path,
        feature_names: tuple[str, ...] = FEATURE_NAMES,
        feature_version: str = FEATURE_VERSION,
    ) -> Self:
        """Read a folder that `save` wrote.

        Raises UsageError when it is incomplete, or when it was trained on other features than the
        caller computes.
        """
        described = path / "router.json"
        if not described.is_file():
            raise UsageError(
                f"{path}: no router.json; train the router first or name the folder of a trained "
                f"one"
            )
        description = files.read_json_object(described)
        missing_keys = sorted(_DESCRIBED - set(description))
        if missing_keys:
            raise DamagedFile(described, f"has no {missing_keys[0]}")
        names = tuple(description["feature_names"])
        version = description["feature_version"]
        if (names, version) != (feature_names, feature_version):
            odd = sorted(set(names) ^ set(feature_names))
            differing = f"; they differ in {', '.join(odd)}" if odd else ""
            raise UsageError(
                f"{described}: feature_version = {version!r} with {len(names)} features, this "
                f"program computes "
                f"{feature_version!r} with {len(feature_names)}{differing}; train the router "
                f"again: r2v run with a run_dir of its own"
            )
        if (
            "gain" in description["layers"]
            and tuple(description.get("effect_features", ())) != EFFECT_FEATURES
        ):
            raise UsageError(
                f"{described}: effect_features: here gain and saving take {EFFECT_FEATURES}; "
                "train the router again: r2v run with a run_dir of its own"
            )
        tensors = files.read_tensors(path / "router.safetensors")
        try:
            return cls._of(description, tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(described, f"does not fit router.safetensors ({error})") from None

    @classmethod
    def _of(cls, description: dict[str, Any], tensors: dict[str, Array]) -> Self:
        scale = Scaler.unlimited(tensors["scaler.mean"], tensors["scaler.std"])
        return cls(
            version=description["version"],
            mode=description["mode"],
            scaler=replace(
                scale,
                low_F=tensors.get("scaler.low", scale.low_F),
                high_F=tensors.get("scaler.high", scale.high_F),
            ),
            heads={
                head: Mlp(
                    tuple(
                        (tensors[f"{head}.{i}.weight"], tensors[f"{head}.{i}.bias"])
                        for i in range(count)
                    )
                )
                for head, count in description["layers"].items()
            },
            calibrators={
                name: Calibrator.from_json(values)
                for name, values in description["calibrators"].items()
            },
            score=description["score"],
            feature_names=tuple(description["feature_names"]),
            feature_version=description["feature_version"],
        )


def predict_states(model: RouterModel, features_NF: npt.NDArray[np.float64]) -> RiskPrediction:
    """What `model.predict` says, asked once for every different state."""

    f_UF, place_N = distinct(features_NF)
    prediction = model.predict(f_UF)
    rho1, rhoT, dissent = (
        None if risk_U is None else risk_U[place_N]
        for risk_U in (prediction.rho1, prediction.rhoT, prediction.dissent)
    )
    return RiskPrediction(prediction.rho[place_N], rho1, rhoT, prediction.score[place_N], dissent)


def distinct(f_NF: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """The different rows, and of every row which one it is."""
    # Rows are told apart by one number each, which is ten times faster than comparing them; that
    # none differ is checked.
    key_N = f_NF @ np.random.default_rng(0).normal(size=f_NF.shape[1])
    _, first_U, place_N = np.unique(key_N, return_index=True, return_inverse=True)
    if not np.array_equal(f_NF[first_U][place_N], f_NF):
        return f_NF, np.arange(len(f_NF))
    return f_NF[first_U], place_N
