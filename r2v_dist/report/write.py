"""Writes the report of a run and shows its headline."""

from collections.abc import Sequence
from pathlib import Path

from r2v_dist.config.run import RunConfig, load_config
from r2v_dist.errors import UsageError
from r2v_dist.evaluation.results import Findings
from r2v_dist.files import write_atomically
from r2v_dist.object_storage.mirror import shown
from r2v_dist.report.headline import headline
from r2v_dist.report.published import Published
from r2v_dist.report.summary import summary
from r2v_dist.report.timeline import bars
from r2v_dist.storage.run_dir import RunDir


def write_report(
    run: RunDir,
    config: RunConfig,
    stage_names: Sequence[str],
    published: Published | None = None,
    findings: Findings | None = None,
) -> Path:
    """Write `report/index.html`, `report/summary.json` and PNG copies of the figures. `published`
    is what the literature reports for the environment.
    """
    import json

    from r2v_dist.evaluation.before_after import changed_by_training
    from r2v_dist.report.episodes import sample_episodes
    from r2v_dist.report.figures.catalogue import draw_figures
    from r2v_dist.report.html.page import render_page

    findings = findings or Findings.of(run, config)
    if not findings.perturbed:
        raise UsageError(
            f"{shown(run.root)}: no evaluated episodes yet; continue the run with `r2v run`"
        )
    folder = run.root / "report"
    folder.mkdir(parents=True, exist_ok=True)
    figures = draw_figures(run, config, findings, folder, published, bars(run, stage_names))
    facts = summary(run, config, findings, stage_names)
    write_atomically(folder / "summary.json", json.dumps(facts, indent=1))
    page = render_page(
        facts,
        changed_by_training(run, config, findings),
        config,
        findings,
        figures,
        sample_episodes(run, config),
    )
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def show_headline(run: RunDir) -> str:
    """The last lines of a run that has just finished."""
    config = load_config(run.root / "config.yaml", [])
    return headline(run, config, Findings.of(run, config))
