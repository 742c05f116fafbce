"""Episodes worth a look: where the SLM failed and help rescued it, where it needed none, where help
came too late.

A step shows what the router saw of it: its score against the threshold and, where the router
predicts one, the risk.
"""

import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.risk_quality import StepForecast, step_forecasts
from r2v_dist.evaluation.trained_routers import routers_of
from r2v_dist.router.baselines import entropy_of
from r2v_dist.router.names import DRAWN
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.rollouts import rows_where
from r2v_dist.storage.run_dir import RunDir

PER_KIND = 2
_TELLING = 7
"""Steps of an episode that is neither over at once nor tiring to read."""
PREFERRED = ("r2v", "entropy", "random")
_OUTCOME = ["key", "task", "z", "router", "threshold", "success", "n_steps", "t"]


@dataclass(frozen=True)
class Sample:
    """One episode to show, and why it was chosen. `facts` are equal on all rows; there may be no
    step to show."""

    why: str
    facts: dict[str, Any]
    rows: list[dict[str, Any]]


def sample_episodes(run: RunDir, config: RunConfig) -> list[Sample]:
    """A few episodes of each kind, the same ones every time."""
    folder = run.rollouts("evaluate")
    table = rollout_store.read_outcomes(folder, _OUTCOME)
    episodes = table.filter(pc.is_valid(table["z"]))
    router, threshold = _shown_router(run, episodes)
    by_slm = pc.equal(episodes["router"], config.slm_only_router)
    alone = {(o["task"], o["z"]): o for o in episodes.filter(by_slm).to_pylist()}
    router_episodes = (
        episodes.filter(pc.equal(episodes["router"], router)) if router else episodes.slice(0, 0)
    )
    routed = (
        router_episodes.filter(pc.equal(router_episodes["threshold"], threshold)).to_pylist()
        if threshold is not None
        else []
    )
    # A rescue shows most where the SLM acted too before it was helped.
    mixed = sorted(routed, key=lambda o: (abs(o["n_steps"] - _TELLING), o["key"]))
    kinds = {
        "SLM-only fails, routed it succeeds": [
            o["key"] for o in mixed if o["success"] and not alone[o["task"], o["z"]]["success"]
        ],
        "fails in spite of routing": sorted(o["key"] for o in routed if not o["success"]),
        "SLM-only fails": sorted(o["key"] for o in alone.values() if not o["success"]),
        "SLM-only succeeds": sorted(
            o["key"] for o in alone.values() if o["success"] and o["n_steps"] >= 4
        ),
    }
    why_by_key = {key: why for why, keys in kinds.items() for key in keys[:PER_KIND]}
    keys = pa.array(list(why_by_key), pa.string())
    rows = rows_where(
        folder, lambda part: pc.is_in(part["key"].cast(pa.string()), value_set=keys), None
    )
    model = routers_of(run, config).get("r2v")
    risks = step_forecasts(model, rows, config.env.max_steps) if model is not None else {}
    rows_by_key = {episode[0]["key"]: episode for episode in rollout_store.episodes_of(rows)}
    samples = []
    for key, why in why_by_key.items():
        steps = [row for row in rows_by_key[key] if row["t"] >= 0]
        samples.append(
            Sample(
                why, rows_by_key[key][0], [_shown(row, risks.get((key, row["t"]))) for row in steps]
            )
        )
    return samples


def _shown_router(run: RunDir, episodes: pa.Table) -> tuple[str | None, float | None]:
    """The router to show and its threshold: the selected one, else one in the middle."""
    routers = set(pc.unique(episodes["router"]).to_pylist())
    name = next((name for name in PREFERRED if name in routers), None)
    if name is None:
        return None, None
    manifest = run.manifest("validate")
    selected: dict[str, float] = manifest.results.get("selected", {}) if manifest else {}
    levels = sorted(
        pc.unique(episodes.filter(pc.equal(episodes["router"], name))["threshold"]).to_pylist()
    )
    return name, selected.get(name, levels[len(levels) // 2])


def _shown(row: dict[str, Any], risk: StepForecast | None) -> dict[str, Any]:
    texts, logprobs, scores = (
        row[name] or [] for name in ("candidate_texts", "candidate_logprobs", "verifier_scores")
    )
    candidates = [
        {
            "text": text,
            "probability": math.exp(sum(logprobs[i]))
            if i < len(logprobs) and logprobs[i]
            else None,
            "verifier": scores[i] if i < len(scores) else None,
        }
        for i, text in enumerate(texts)
    ]
    entropy = entropy_of(row["first_top_logprobs"]) if row["first_top_logprobs"] else None
    compared = (
        row["score"] is not None and row["threshold"] is not None and row["router"] not in DRAWN
    )
    return row | {
        "candidates": _together(candidates),
        "entropy": entropy,
        "risk": risk.alone if risk else None,
        "risk_after": risk.after if risk else None,
        "dissent": risk.dissent if risk else None,
        "compared": compared,
    }


def _together(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal proposals as one line, in the order in which they came."""
    lines: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        lines.setdefault(candidate["text"], candidate | {"times": 0})["times"] += 1
    return list(lines.values())
