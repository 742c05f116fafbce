"""The exported router: a folder that numpy alone can run, and that refuses features it was not trained on.

`router.safetensors` holds `scaler.mean` [F], `scaler.std` [F] and for every head, in float64, `<head>.<layer>.weight` [out, in] and
`<head>.<layer>.bias` [out], layers counted from 0. Layers are joined by SiLU; the last has one output, whose sigmoid is the head's.
`router.json` holds the feature names and version, the mode, the router's version and the calibrator of each risk head.

Heads, all on standardised features (f - mean) / std:
  decoupled  `rho`, `rho1`, `rhoT`, and `policy` on the concatenation (rho, rho1, rhoT after calibration, standardised f)
  joint      `rho` alone
The score is the policy's output when decoupled and the calibrated rho when joint; escalate iff score >= threshold.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from r2v_dist.calibrators import Calibrator, sigmoid
from r2v_dist.errors import UsageError
from r2v_dist.features import FEATURE_NAMES, FEATURE_VERSION

Array = npt.NDArray[np.float64]
Mode = Literal["joint", "decoupled"]
RISKS = ("rho", "rho1", "rhoT")


@dataclass(frozen=True)
class Mlp:
    """(weight [out, in], bias [out]) of each layer."""

    layers: tuple[tuple[Array, Array], ...]

    def __call__(self, x_NI: Array) -> Array:
        """Logits [N] of the single output."""
        *hidden, (last_OI, last_O) = self.layers
        for weight_OI, bias_O in hidden:
            a_NO = x_NI @ weight_OI.T + bias_O
            x_NI = a_NO * sigmoid(a_NO)
        logits_N: Array = (x_NI @ last_OI.T + last_O)[:, 0]
        return logits_N


@dataclass(frozen=True)
class RiskPrediction:
    """Calibrated risks and the score, each [N]; a joint router has neither rho1 nor rhoT."""

    rho: Array
    rho1: Array | None
    rhoT: Array | None
    score: Array


@dataclass(frozen=True)
class RouterModel:
    """A trained router. `heads` and `calibrators` are by the names of the module's docstring."""

    version: str
    mode: Mode
    mean_F: Array
    std_F: Array
    heads: dict[str, Mlp]
    calibrators: dict[str, Calibrator]
    feature_names: tuple[str, ...] = FEATURE_NAMES
    feature_version: str = FEATURE_VERSION

    def predict(self, features_NF: Array) -> RiskPrediction:
        """Risks and score at N states. Raises ValueError for another number of features."""
        if features_NF.ndim != 2 or features_NF.shape[1] != len(self.feature_names):
            raise ValueError(f"router {self.version} takes [N, {len(self.feature_names)}] features, not {features_NF.shape}")
        f_NF = (features_NF - self.mean_F) / self.std_F
        if self.mode == "joint":
            rho = self._risk("rho", f_NF)
            return RiskPrediction(rho, None, None, rho)
        rho, rho1, rhoT = (self._risk(name, f_NF) for name in RISKS)
        score = sigmoid(self.heads["policy"](np.concatenate([np.stack([rho, rho1, rhoT], axis=1), f_NF], axis=1)))
        return RiskPrediction(rho, rho1, rhoT, score)

    def save(self, path: Path) -> None:
        """Write the folder `path`; the JSON comes last, so that a folder with it is complete."""
        path.mkdir(parents=True, exist_ok=True)
        tensors = {"scaler.mean": self.mean_F, "scaler.std": self.std_F}
        for head, mlp in self.heads.items():
            for i, (weight, bias) in enumerate(mlp.layers):
                tensors |= {f"{head}.{i}.weight": weight, f"{head}.{i}.bias": bias}
        description = {
            "version": self.version,
            "mode": self.mode,
            "feature_version": self.feature_version,
            "feature_names": self.feature_names,
            "layers": {head: len(mlp.layers) for head, mlp in self.heads.items()},
            "calibrators": {name: calibrator.to_json() for name, calibrator in self.calibrators.items()},
        }
        weights, scratch = path / "router.safetensors", path / "router.json.tmp"
        save_file({name: np.ascontiguousarray(values, dtype=np.float64) for name, values in tensors.items()}, weights)
        scratch.write_text(json.dumps(description, indent=1) + "\n")
        scratch.rename(path / "router.json")

    @classmethod
    def load(cls, path: Path, feature_names: tuple[str, ...] = FEATURE_NAMES, feature_version: str = FEATURE_VERSION) -> Self:
        """Read a folder that `save` wrote.

        Raises UsageError when it is incomplete, or when it was trained on other features than the caller computes.
        """
        described = path / "router.json"
        if not described.is_file():
            raise UsageError(f"{path}: no router.json; train the router first or name the folder of a trained one")
        description: dict[str, Any] = json.loads(described.read_text())
        names, version = tuple(description["feature_names"]), description["feature_version"]
        if (names, version) != (feature_names, feature_version):
            odd = sorted(set(names) ^ set(feature_names))
            differing = f"; they differ in {', '.join(odd)}" if odd else ""
            raise UsageError(
                f"{described}: feature_version = {version!r} with {len(names)} features, this program computes "
                f"{feature_version!r} with {len(feature_names)}{differing}; train the router again"
            )
        tensors = load_file(path / "router.safetensors")
        return cls(
            version=description["version"],
            mode=description["mode"],
            mean_F=tensors["scaler.mean"],
            std_F=tensors["scaler.std"],
            heads={
                head: Mlp(tuple((tensors[f"{head}.{i}.weight"], tensors[f"{head}.{i}.bias"]) for i in range(count)))
                for head, count in description["layers"].items()
            },
            calibrators={name: Calibrator.from_json(values) for name, values in description["calibrators"].items()},
            feature_names=names,
            feature_version=version,
        )

    def _risk(self, name: str, f_NF: Array) -> Array:
        return self.calibrators.get(name, Calibrator())(sigmoid(self.heads[name](f_NF)))
