"""Which signal routes: how the deployed score ranks states, beside everything the router estimates.

A router may estimate the residual risk well and route by something else. Rank correlations say so,
because a threshold on a score asks for its order of states and for nothing more.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.evaluation.risk_quality import CANDIDATE_COLUMNS
from r2v_dist.router.advantage import LEAST_COST, LEAST_GAIN, call_cost
from r2v_dist.router.features import features
from r2v_dist.router.model import RiskPrediction, RouterModel
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.storage.rollouts import rows_where

Array = npt.NDArray[np.float64]
States = Literal["alone", "selected"]
"""Those of the SLM's episodes without the teacher, or of the router's at its selected threshold."""
SIGNALS = {
    "rho": "the residual risk",
    "rho1": "the risk after one step of the teacher",
    "rhoT": "the risk with the teacher to the end",
    "value": "what one step of the teacher is worth",
    "dissent": "disagreement with the teacher",
    "gain": "the gain from the teacher's step",
    "saving": "the calls that step saves later",
}
"""In the words of a report. `value` is rho - rho1."""
SCORED_BY = {"risk": "rho", "value": "value", "dissent": "dissent"}
"""Scores that are one of the signals itself."""
_SAME = 0.9
_CLOSE = 0.5


@dataclass(frozen=True)
class RoutingSignals:
    """Rank correlations of one router's score, and how often an `advantage` score is clipped.

    A correlation is None where the score or the signal is the same at every state; a clipped
    share is None where the score is no ratio. `areas` are the frontier areas by which validation
    chose the score, by score; empty where the configuration names it.
    """

    name: str
    training_seed: int
    path: States
    states: int
    score: str
    correlations: dict[str, float | None]
    clipped_cost: float | None
    clipped_gain: float | None
    areas: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"words": self.words}

    @property
    def leading(self) -> str | None:
        """The signal that orders states most like the score or its reverse; None without any."""
        sizes = {n: abs(value) for n, value in self.correlations.items() if value is not None}
        return max(sizes, key=lambda name: sizes[name]) if sizes else None

    @property
    def words(self) -> str:
        """What routes, in a sentence without its full stop."""
        leading = self.leading
        if leading is None:
            return f"the score ({self.score}) does not tell these states apart"
        risk = self.correlations.get("rho")
        if self.score in SCORED_BY:
            signal = SCORED_BY[self.score]
            beside = (
                "" if signal == "rho" or risk is None else f" (with the residual risk {risk:.2f})"
            )
            return f"{SIGNALS[signal]} routes: it is the score{beside}{self._choice}"
        correlation = self.correlations[leading]
        assert correlation is not None
        beside = "" if leading == "rho" or risk is None else f", with the residual risk {risk:.2f}"
        evidence = f"rank correlation {correlation:.2f}{beside}"
        signal = SIGNALS[leading]
        if correlation >= _SAME:
            order = "ranks states nearly as it does"
            return f"{signal} routes: the score ({self.score}) {order} ({evidence})"
        if abs(correlation) >= _CLOSE:
            closest = f"the score ({self.score}) is closest to {signal}"
            return f"no single signal routes: {closest} ({evidence})"
        return (
            f"no estimate alone explains the score ({self.score}); closest is {signal} ({evidence})"
        )

    @property
    def _choice(self) -> str:
        """By what validation chose the score, where it did."""
        if not self.areas:
            return ""
        alternatives = [
            f"{score} {area:.3f}" for score, area in self.areas.items() if score != self.score
        ]
        beside = f"; {', '.join(alternatives)}" if alternatives else ""
        return f", which validation chose: frontier area {self.areas[self.score]:.3f}{beside}"


def routing_signals(
    name: str,
    model: RouterModel,
    features_NF: Array,
    training_seed: int,
    path: States,
    areas: Mapping[str, float] | None = None,
) -> RoutingSignals | None:
    """The correlations over N states. None without a state."""
    if not len(features_NF):
        return None
    prediction = model.predict(features_NF)
    cost, gain = clipped_shares(prediction)
    correlations: dict[str, float | None] = {}
    for signal, values_N in signals_of(prediction).items():
        correlations[signal] = spearman(prediction.score, values_N)
    return RoutingSignals(
        name=name,
        training_seed=training_seed,
        path=path,
        states=len(features_NF),
        score="risk" if model.mode == "joint" else model.score,
        correlations=correlations,
        clipped_cost=cost,
        clipped_gain=gain,
        areas=areas or {},
    )


def signals_of(prediction: RiskPrediction) -> dict[str, Array]:
    """Every estimate that the router makes, by the names of `SIGNALS`."""
    value = None if prediction.rho1 is None else prediction.rho - prediction.rho1
    signals = {
        "rho": prediction.rho,
        "rho1": prediction.rho1,
        "rhoT": prediction.rhoT,
        "value": value,
        "dissent": prediction.dissent,
        "gain": prediction.gain,
        "saving": prediction.saving,
    }
    return {name: values_N for name, values_N in signals.items() if values_N is not None}


def clipped_shares(prediction: RiskPrediction) -> tuple[float | None, float | None]:
    """Shares of states with a clipped denominator, and a clipped numerator, of an `advantage`."""
    if prediction.dissent is None or prediction.gain is None or prediction.saving is None:
        return None, None
    cost_N = call_cost(prediction.dissent, prediction.saving)
    return float((cost_N < LEAST_COST).mean()), float((prediction.gain < LEAST_GAIN).mean())


def spearman(x_N: Array, y_N: Array) -> float | None:
    """Rank correlation, equal values sharing their mean rank. None where either is constant."""
    x_ranks_N = mid_ranks(x_N)
    y_ranks_N = mid_ranks(y_N)
    x_ranks_N -= x_ranks_N.mean()
    y_ranks_N -= y_ranks_N.mean()
    scale = float(np.sqrt((x_ranks_N @ x_ranks_N) * (y_ranks_N @ y_ranks_N)))
    return float(x_ranks_N @ y_ranks_N) / scale if scale > 0 else None


def mid_ranks(x_N: Array) -> Array:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, level_N, count_L = np.unique(x_N, return_inverse=True, return_counts=True)
    mean_L = np.cumsum(count_L) - (count_L - 1) / 2
    ranks_N: Array = mean_L[level_N]
    return ranks_N


def routed_states(folder: Path, name: str, threshold: float, max_steps: int | None) -> Array:
    """Features of the states at which a router decided, perturbed episodes at one threshold."""

    def of_arm(rows: pa.Table) -> Any:
        at_threshold = pc.fill_null(pc.equal(rows["threshold"], threshold), False)
        of_router = pc.and_(pc.equal(rows["router"], name), pc.is_valid(rows["z"]))
        return pc.and_(of_router, at_threshold)

    table = rows_where(folder, of_arm, CANDIDATE_COLUMNS)
    table = table.filter(pc.greater_equal(table["t"], 0))
    # After a latched hand-over the SLM proposes nothing, and the router decides nothing.
    has_proposal = [bool(texts) for texts in table["candidate_texts"].to_pylist()]
    features_NF = features(StepBatch.from_rows(table, max_steps))
    states_NF: Array = features_NF[np.array(has_proposal, dtype=bool)]
    return states_NF
