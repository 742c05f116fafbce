"""How good the predicted risk of every learned router is on SLM-only test episodes
(docs/method.md, section 9).

The forecast at a step is rho_hat from what the deployed agent saw there; the observation is the
episode's own outcome, one branch a step (n = 1). Nothing on test tasks is labelled by extra
branches, and nothing here is fitted.

All of it is about the residual risk, not about the score that routes. Pooled over steps, long
episodes weigh most and the number of the step alone tells much; so the same is measured with every
episode weighing alike, and step by step.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.router.features import features
from r2v_dist.router.model import RouterModel
from r2v_dist.router.query_features import query_features
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.stats.calibration_error import (
    BINS,
    PerfectEce,
    adaptive_ece,
    auroc,
    brier_parts,
    ece,
    equal_width,
)
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.rollouts import codes, rows_where

Array = npt.NDArray[np.float64]
CANDIDATE_COLUMNS = [
    *(
        "key",
        "task",
        "z",
        "router",
        "threshold",
        "goal",
        "success",
        "t",
        "observation",
        "actor",
        "action",
        "prompt_tokens",
    ),
    *(
        "verifier_scores",
        "chosen_index",
        "first_top_logprobs",
        "candidate_texts",
        "candidate_ids",
        "candidate_logprobs",
    ),
]
_REPETITIONS = 300


@dataclass(frozen=True)
class AloneSteps:
    """All steps of the SLM's perturbed test episodes, as features and as what came of them."""

    features_NF: Array
    query_NF: Array
    failed_N: Array
    t_N: npt.NDArray[np.int64]
    episode_N: npt.NDArray[np.int64]

    @classmethod
    def read(cls, folder: Path, slm_only_router: str, max_steps: int | None) -> "AloneSteps":
        """The episodes of the SLM as deployed among those of a stage."""
        table = rows_where(
            folder,
            lambda rows: pc.and_(pc.equal(rows["router"], slm_only_router), pc.is_valid(rows["z"])),
            CANDIDATE_COLUMNS,
        )
        table = table.filter(pc.greater_equal(table["t"], 0))
        _, episode_N = np.unique(codes(table["key"])[0], return_inverse=True)
        t_N = np.asarray(table["t"], dtype=np.int64)
        first_E = np.zeros(int(episode_N.max(initial=-1)) + 1, dtype=np.int64)
        first_E[episode_N[t_N == 0]] = np.flatnonzero(t_N == 0)
        opening = table.take(pa.array(first_E))
        query_EF = query_features(opening["goal"].to_pylist(), opening["observation"].to_pylist())
        failed_N = 1.0 - np.asarray(table["success"], dtype=np.float64)
        return cls(
            features(StepBatch.from_rows(table, max_steps)),
            query_EF[episode_N],
            failed_N,
            t_N,
            episode_N,
        )


@dataclass(frozen=True)
class StepQuality:
    """Measures at one step number, over the episodes that reach it. AUROC is None where all of them
    end alike.
    """

    t: int
    steps: int
    failure_rate: float
    mean_risk: float
    brier: float
    constant_brier: float
    auroc: float | None


@dataclass(frozen=True)
class EpisodeQuality:
    """Measures with every episode weighing alike: a step counts 1 / (steps of its episode)."""

    brier: float
    constant_brier: float
    ece15: float
    auroc: float | None


@dataclass(frozen=True)
class RiskQuality:
    """Measures of one router's rho_hat. `perfect_ece` treats steps as independent;
    `perfect_ece_shared` gives all steps of an episode the same luck, which is nearer to the truth:
    a perfect forecaster's ECE lies between the two, and neither is 0.
    """

    name: str
    training_seed: int
    brier: float
    constant_brier: float
    reliability: float
    resolution: float
    ece15: float
    adaptive_ece: float
    perfect_ece: float
    perfect_ece_upper_95: float
    perfect_ece_shared: float
    perfect_ece_shared_upper_95: float
    auroc: float | None
    steps: int
    episodes: int
    failure_rate: float
    mean_risk: float
    step_number_auroc: float | None
    """Of the step number alone: what pooling over steps gives away."""
    by_episode: EpisodeQuality
    by_step: tuple[StepQuality, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def risk_of(name: str, model: RouterModel, steps: AloneSteps) -> Array:
    """rho_hat at every step."""
    return model.predict(steps.query_NF if name == "query_level" else steps.features_NF).rho


def risk_quality(
    name: str, training_seed: int, rho_N: Array, steps: AloneSteps, seed: int
) -> RiskQuality | None:
    """The measures; None for a router that gives every step the same risk, because it predicts
    none.
    """
    if len(rho_N) == 0 or np.ptp(rho_N) == 0:
        return None
    failed_N = steps.failed_N
    n_N = np.ones(len(rho_N))
    parts = brier_parts(rho_N, failed_N, n_N)
    independent = luck_ece(rho_N, np.arange(len(rho_N)), seed)
    shared = luck_ece(rho_N, steps.episode_N, seed)
    return RiskQuality(
        *(name, training_seed, parts.brier, parts.constant, parts.reliability, parts.resolution),
        ece15=ece(rho_N, failed_N, n_N),
        adaptive_ece=adaptive_ece(rho_N, failed_N, n_N),
        perfect_ece=independent.mean,
        perfect_ece_upper_95=independent.upper_95,
        perfect_ece_shared=shared.mean,
        perfect_ece_shared_upper_95=shared.upper_95,
        auroc=_auroc(rho_N, failed_N, n_N),
        steps=len(rho_N),
        episodes=int(steps.episode_N.max()) + 1,
        failure_rate=float(failed_N.mean()),
        mean_risk=float(rho_N.mean()),
        step_number_auroc=_auroc(steps.t_N.astype(np.float64), failed_N, n_N),
        by_episode=episode_quality(rho_N, failed_N, steps.episode_N),
        by_step=step_qualities(rho_N, failed_N, steps.t_N),
    )


def episode_quality(
    rho_N: Array, failed_N: Array, episode_N: npt.NDArray[np.int64]
) -> EpisodeQuality:
    """The pooled measures with weights that sum to 1 in every episode."""
    weight_N = 1.0 / np.bincount(episode_N)[episode_N]
    failures_N = failed_N * weight_N
    parts = brier_parts(rho_N, failures_N, weight_N)
    return EpisodeQuality(
        brier=parts.brier,
        constant_brier=parts.constant,
        ece15=ece(rho_N, failures_N, weight_N),
        auroc=_auroc(rho_N, failures_N, weight_N),
    )


def step_qualities(
    rho_N: Array,
    failed_N: Array,
    t_N: npt.NDArray[np.int64],
) -> tuple[StepQuality, ...]:
    """One entry for every step number, ascending."""
    qualities = []
    for t in np.unique(t_N).tolist():
        rho_E = rho_N[t_N == t]
        failed_E = failed_N[t_N == t]
        failure_rate = float(failed_E.mean())
        quality = StepQuality(
            t=t,
            steps=len(rho_E),
            failure_rate=failure_rate,
            mean_risk=float(rho_E.mean()),
            brier=float(((rho_E - failed_E) ** 2).mean()),
            constant_brier=failure_rate * (1 - failure_rate),
            auroc=_auroc(rho_E, failed_E, np.ones(len(rho_E))),
        )
        qualities.append(quality)
    return tuple(qualities)


def _auroc(score_N: Array, failures_N: Array, weight_N: Array) -> float | None:
    """None where all fail or all succeed."""
    mixed = failures_N.sum() > 0 and bool((failures_N < weight_N).any())
    return auroc(score_N, failures_N, weight_N) if mixed else None


def luck_ece(rho_N: Array, draw_N: npt.NDArray[np.int64], seed: int) -> PerfectEce:
    """ECE when the truth is rho and one uniform draw decides all steps of equal `draw_N`;
    `stats.calibration_error.perfect_ece` where all differ.
    """
    rng = np.random.default_rng(seed)
    draws = int(draw_N.max()) + 1
    bins_N = equal_width(rho_N, BINS)
    forecast_B = np.bincount(bins_N, rho_N, BINS)
    values = [
        np.abs(
            forecast_B - np.bincount(bins_N[rng.random(draws)[draw_N] < rho_N], minlength=BINS)
        ).sum()
        / len(rho_N)
        for _ in range(_REPETITIONS)
    ]
    return PerfectEce(float(np.mean(values)), float(np.quantile(values, 0.95)))


def score_auroc(folder: Path) -> dict[str, float]:
    """AUROC of every router's score against the SLM-only outcome, from the arms that only
    watched (validation tasks).
    """
    table = rollout_store.read(folder, ["router", "threshold", "score", "success", "z"])
    table = table.filter(pc.and_(pc.equal(table["threshold"], math.inf), pc.is_valid(table["z"])))
    router_N, names = codes(table["router"]) if table.num_rows else (np.array([], np.int64), [])
    score_N = np.asarray(table["score"], dtype=np.float64)
    failed_N = 1.0 - np.asarray(table["success"], dtype=np.float64)
    aurocs: dict[str, float] = {}
    for code in np.unique(router_N).tolist():
        of_router_N = (router_N == code) & np.isfinite(score_N)
        if 0 < failed_N[of_router_N].sum() < of_router_N.sum():
            aurocs[names[code]] = auroc(
                score_N[of_router_N], failed_N[of_router_N], np.ones(int(of_router_N.sum()))
            )
    return dict(sorted(aurocs.items()))


@dataclass(frozen=True)
class StepForecast:
    """What a router expects at a step: the risk of going on alone, and where it predicts them the
    risk after one step of the teacher and the probability that the teacher would do something else.
    """

    alone: float
    after: float | None
    dissent: float | None


def step_forecasts(
    model: RouterModel, rows: pa.Table, max_steps: int | None
) -> dict[tuple[str, int], StepForecast]:
    """By (episode, step) of whole episodes."""
    if not rows.num_rows:
        return {}
    prediction = model.predict(features(StepBatch.from_rows(rows, max_steps)))
    columns = [prediction.rho, prediction.rho1, prediction.dissent]
    rows_N3 = zip(
        *([None] * rows.num_rows if column is None else column.tolist() for column in columns),
        strict=True,
    )
    places = zip(
        rows["key"].to_pylist(),
        rows["t"].to_pylist(),
        rows["candidate_texts"].to_pylist(),
        strict=True,
    )
    # Without a proposal there is nothing to predict from.
    return {
        (key, t): StepForecast(*values)
        for (key, t, texts), values in zip(places, rows_N3, strict=True)
        if texts
    }
