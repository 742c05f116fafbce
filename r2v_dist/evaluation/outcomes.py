"""From committed episodes to the rows of a report. Every number comes from live episodes in the
store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.errors import UsageError
from r2v_dist.stats.bootstrap import task_bootstrap_interval, worst_seed_success
from r2v_dist.stats.cvar import cvar_failure
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.rollouts import codes

Array = npt.NDArray[np.float64]
_COLUMNS = [
    "key",
    "task",
    "z",
    "arm",
    "router",
    "threshold",
    "training_seed",
    "split",
    "success",
    "n_steps",
    "t",
    "actor",
]


@dataclass(frozen=True)
class RouterRow:
    """One router at one threshold. `results.with_risk` adds `brier`, `ece15` and `auroc`."""

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


@dataclass(frozen=True)
class ArmOutcomes:
    """The episodes of one router at one threshold, (tasks x seeds): success, teacher calls, steps.
    A clean run has one column.
    """

    name: str
    threshold: float | None
    training_seed: int
    split: str
    tasks: tuple[str, ...]
    zs: tuple[int, ...]
    success_TZ: Array
    calls_TZ: Array
    steps_TZ: Array


def arm_outcomes(folder: Path, clean: bool = False) -> list[ArmOutcomes]:
    """Every arm of a stage, over its perturbed (or its clean) episodes. Arms that only watch are
    left out.

    Raises UsageError where an arm lacks an episode.
    """
    table = rollout_store.read(folder, _COLUMNS)
    table = table.filter((pc.is_null if clean else pc.is_valid)(table["z"]))
    table = table.filter(pc.fill_null(pc.is_finite(table["threshold"]), True))
    if not table.num_rows:
        return []
    by_teacher = np.asarray(pc.equal(table["actor"].cast(pa.string()), "teacher").fill_null(False))
    calls_K = np.bincount(codes(table["key"])[0], by_teacher)
    episodes = rollout_store.outcomes(table)
    cells_3E = np.stack(
        [
            np.asarray(episodes["success"]),
            calls_K[codes(episodes["key"])[0]],
            np.asarray(episodes["n_steps"]),
        ]
    ).astype(np.float64)
    arm_E = codes(episodes["arm"])[0]
    order_E = np.argsort(arm_E, kind="stable")
    groups = np.split(order_E, np.flatnonzero(np.diff(arm_E[order_E])) + 1)
    task_E = np.asarray(episodes["task"].to_pylist())
    z_E = np.asarray(pc.fill_null(episodes["z"], -1))
    arms = [
        _outcomes(
            folder,
            episodes.slice(int(group[0]), 1).to_pylist()[0],
            task_E[group],
            z_E[group],
            cells_3E[:, group],
        )
        for group in groups
    ]
    return sorted(
        arms,
        key=lambda arm: (
            arm.threshold is not None,
            arm.name,
            arm.threshold or 0.0,
            arm.training_seed,
        ),
    )


def _outcomes(
    folder: Path,
    row: Mapping[str, Any],
    task_E: npt.NDArray[Any],
    z_E: npt.NDArray[Any],
    cells_3E: Array,
) -> ArmOutcomes:
    tasks, t_E = np.unique(task_E, return_inverse=True)
    zs, column_E = np.unique(z_E, return_inverse=True)
    cells_3TZ = np.full((3, len(tasks), len(zs)), np.nan)
    cells_3TZ[:, t_E, column_E] = cells_3E
    if np.isnan(cells_3TZ).any():
        raise UsageError(
            f"{folder}: the episodes of arm {row['arm']} do not cover every task under every "
            f"seed; "
            "`r2v run` with the run's configuration plays what is missing"
        )
    return ArmOutcomes(
        *(row["router"], row["threshold"], row["training_seed"], row["split"]),
        tuple(tasks.tolist()),
        tuple(zs.tolist()),
        *cells_3TZ,
    )


def router_rows(
    arms: Sequence[ArmOutcomes],
    alpha: float,
    bootstrap: int,
    seed: int,
    selected: Mapping[str, float] | None = None,
) -> list[RouterRow]:
    """One row an arm. `alpha` is the tail mass of CVaR; `selected` are thresholds that validation
    chose, by router.
    """
    teacher_only = next((arm.calls_TZ.sum() for arm in arms if arm.name == "teacher_only"), None)
    return [_row(arm, teacher_only, alpha, bootstrap, seed, selected) for arm in arms]


def hard_tasks(folder: Path, steps: int) -> int:
    """How many tasks take the teacher at least `steps` steps when nothing is perturbed."""
    table = rollout_store.read_outcomes(folder, ["t", "z", "router", "n_steps"])
    clean = table.filter(pc.and_(pc.is_null(table["z"]), pc.equal(table["router"], "teacher_only")))
    return int(pc.sum(pc.greater_equal(clean["n_steps"], steps)).as_py() or 0)


def _row(
    arm: ArmOutcomes,
    teacher_only: float | None,
    alpha: float,
    bootstrap: int,
    seed: int,
    selected: Mapping[str, float] | None,
) -> RouterRow:
    calls = int(arm.calls_TZ.sum())
    return RouterRow(
        name=arm.name,
        threshold=arm.threshold,
        selected=None
        if selected is None or arm.threshold is None
        else selected.get(arm.name) == arm.threshold,
        split=arm.split,
        training_seed=arm.training_seed,
        success_rate=float(arm.success_TZ.mean()),
        success_ci=task_bootstrap_interval(arm.success_TZ, bootstrap, seed),
        llm_call_rate=calls / max(1.0, float(arm.steps_TZ.sum())),
        teacher_calls=calls,
        teacher_call_fraction=calls / teacher_only if teacher_only else None,
        worst_seed_success=worst_seed_success(arm.success_TZ),
        cvar_failure=cvar_failure(arm.success_TZ, alpha),
        brier=None,
        ece15=None,
        auroc=None,
        episodes=arm.success_TZ.size,
        tasks=arm.success_TZ.shape[0],
        seeds=arm.success_TZ.shape[1],
    )
