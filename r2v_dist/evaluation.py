"""From committed episodes to the rows of a report. Every number comes from live episodes in the store."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist import rollout_store
from r2v_dist.metrics import task_bootstrap_interval, worst_seed_success
from r2v_dist.risk_measures import cvar_failure
from r2v_dist.routers import entropy_of

CVAR_ALPHA = 0.2
_EPISODE = ["key", "task", "z", "arm", "router", "threshold", "training_seed", "split", "success", "n_steps", "stop_reason"]


@dataclass(frozen=True)
class SuccessSummary:
    """How a stage went, for the terminal."""

    episodes: int
    text: str


@dataclass(frozen=True)
class RouterRow:
    """One router at one threshold. None where a later capability fills the value in."""

    name: str
    threshold: float | None
    selected: bool | None
    split: str
    training_seed: int
    success_rate: float
    success_ci: tuple[float, float]
    llm_call_rate: float
    teacher_calls: int
    teacher_call_fraction: float | None
    worst_seed_success: float
    cvar_failure: float
    brier: float | None
    ece15: float | None
    auroc: float | None
    episodes: int
    tasks: int
    seeds: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def success_summary(folder: Path) -> SuccessSummary:
    """Episodes and success, clean and perturbed apart."""
    table = rollout_store.outcomes(rollout_store.read(folder, ["t", "z", "router", "success"]))
    routers = pc.unique(table["router"]).to_pylist()
    parts = []
    for router in sorted(routers):
        own = table.filter(pc.equal(table["router"], router))
        clean = own.filter(pc.is_null(own["z"]))["success"].to_numpy()
        perturbed = own.filter(pc.is_valid(own["z"]))["success"].to_numpy()
        values = [f"{label} {v.mean():.0%}" for label, v in (("clean", clean), ("perturbed", perturbed)) if len(v)]
        if router in ("slm_only", "teacher_only") and values:
            parts.append(f"{router} {', '.join(values)}")
    return SuccessSummary(table.num_rows, "; ".join(parts))


def step_entropies(folder: Path) -> npt.NDArray[np.float64]:
    """First-token entropy in nats of every perturbed SLM step."""
    table = rollout_store.read(folder, ["z", "actor", "first_top_logprobs"])
    table = table.filter(pc.and_(pc.is_valid(table["z"]), pc.equal(table["actor"], "slm")))
    return np.array([entropy_of(row) for row in table["first_top_logprobs"].to_pylist() if row])


def entropy_thresholds(folder: Path, rates: tuple[float, ...]) -> list[float]:
    """Thresholds that SLM-only validation steps exceed at the given rates; empty where a model gives no log-probabilities."""
    entropies = step_entropies(folder)
    return [float(np.quantile(entropies, 1 - rate)) for rate in rates] if len(entropies) else []


def router_rows(folder: Path, bootstrap: int, seed: int, clean: bool = False) -> list[RouterRow]:
    """One row a router and threshold, over the perturbed (or the clean) episodes of a stage."""
    table = rollout_store.read(folder, [*_EPISODE, "t", "actor"])
    table = table.filter((pc.is_null if clean else pc.is_valid)(table["z"]))
    teacher_steps = _steps_by_key(table.filter(pc.equal(table["actor"], "teacher")))
    episodes = rollout_store.outcomes(table)
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for row in episodes.select(_EPISODE).to_pylist():
        by_arm.setdefault(row["arm"], []).append(row)
    teacher_only = sum(r["n_steps"] for rows in by_arm.values() if rows[0]["router"] == "teacher_only" for r in rows)
    rows = [_row(rows, teacher_steps, teacher_only, bootstrap, seed) for rows in by_arm.values()]
    return sorted(rows, key=lambda row: (row.threshold is not None, row.name, row.threshold or 0.0))


def hard_tasks(folder: Path, steps: int) -> int:
    """How many tasks take the teacher at least `steps` steps when nothing is perturbed."""
    table = rollout_store.outcomes(rollout_store.read(folder, ["t", "z", "router", "n_steps"]))
    clean = table.filter(pc.and_(pc.is_null(table["z"]), pc.equal(table["router"], "teacher_only")))
    return int(pc.sum(pc.greater_equal(clean["n_steps"], steps)).as_py() or 0)


def outcome_matrix(rows: list[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """Success as (tasks x seeds); a clean run has one column."""
    tasks = sorted({r["task"] for r in rows})
    zs = sorted({-1 if r["z"] is None else r["z"] for r in rows})
    outcomes_TZ = np.full((len(tasks), len(zs)), np.nan)
    for r in rows:
        outcomes_TZ[tasks.index(r["task"]), zs.index(-1 if r["z"] is None else r["z"])] = r["success"]
    if np.isnan(outcomes_TZ).any():
        raise ValueError(f"arm {rows[0]['arm']}: the episodes do not cover every task under every seed")
    return outcomes_TZ


def _steps_by_key(table: pa.Table) -> dict[str, int]:
    counts = table.group_by("key").aggregate([("t", "count")])
    return dict(zip(counts["key"].to_pylist(), counts["t_count"].to_pylist(), strict=True))


def _row(rows: list[dict[str, Any]], teacher_steps: dict[str, int], teacher_only: int, bootstrap: int, seed: int) -> RouterRow:
    outcomes_TZ = outcome_matrix(rows)
    teacher_calls = sum(teacher_steps.get(r["key"], 0) for r in rows)
    steps = sum(r["n_steps"] for r in rows)
    first = rows[0]
    return RouterRow(
        name=first["router"],
        threshold=first["threshold"],
        selected=None,
        split=first["split"],
        training_seed=first["training_seed"],
        success_rate=float(outcomes_TZ.mean()),
        success_ci=task_bootstrap_interval(outcomes_TZ, bootstrap, seed),
        llm_call_rate=teacher_calls / max(1, steps),
        teacher_calls=teacher_calls,
        teacher_call_fraction=teacher_calls / teacher_only if teacher_only else None,
        worst_seed_success=worst_seed_success(outcomes_TZ),
        cvar_failure=cvar_failure(outcomes_TZ, CVAR_ALPHA),
        brier=None,
        ece15=None,
        auroc=None,
        episodes=len(rows),
        tasks=outcomes_TZ.shape[0],
        seeds=outcomes_TZ.shape[1],
    )
