"""The report as one self-contained HTML file: no script, no network, readable on paper."""

from typing import Any

import numpy as np

from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.comparison import REFERENCE
from r2v_dist.evaluation.outcomes import RouterRow
from r2v_dist.evaluation.results import Findings
from r2v_dist.evaluation.routing_signals import SIGNALS
from r2v_dist.report.claims import (
    cvar_role,
    deciding,
    first_step_words,
    seeds_words,
    shown_signals,
    standing,
)
from r2v_dist.report.episodes import Sample
from r2v_dist.report.figures.drawing import Figure
from r2v_dist.report.figures.palette import ABLATIONS, COLOURS, ENDS, LABELS, fitting, listed
from r2v_dist.report.headline import HARD_STEPS
from r2v_dist.report.html.templates import render
from r2v_dist.stats.seed_difference import LEVEL

KINDS = {
    "selected": "selected",
    "budget": "on a budget",
    "expected_cost": "least expected cost",
    "bayes": "Bayes rule",
}
_ORDER = (
    *ENDS,
    "r2v",
    *(name for name in LABELS if name not in (*ENDS, "r2v", *ABLATIONS)),
    *ABLATIONS,
)


def render_page(
    facts: dict[str, Any],
    training: list[dict[str, Any]],
    config: RunConfig,
    findings: Findings,
    figures: list[Figure],
    samples: list[Sample],
) -> str:
    """The page's HTML."""
    rows = sorted(
        findings.perturbed,
        key=lambda row: (_ORDER.index(row.name), row.training_seed, row.threshold or 0.0),
    )
    return render(
        "page.html.jinja",
        facts=facts,
        training=training,
        rows=rows,
        chosen=[row for row in rows if row.threshold is None or row.selected],
        clean={row.name: row for row in reversed(findings.clean)},
        ends={row.name: row for row in reversed(findings.perturbed) if row.threshold is None},
        overall={
            n: o
            for n in _ORDER
            if (o := findings.overall(n, config.evaluate.bootstrap, config.seed)) is not None
        },
        findings=findings,
        figures={
            section: [f for f in figures if f.section == section]
            for section in {f.section for f in figures}
        },
        samples=samples,
        against={c.other: c for c in findings.comparisons.others} if findings.comparisons else {},
        trained=_trained(facts, rows),
        colours=COLOURS,
        labels=LABELS,
        fitting=fitting,
        listed=listed,
        scores=_best_first(findings.scores),
        cvar_role=cvar_role(config),
        deciding=deciding(findings),
        first_step=first_step_words(findings, REFERENCE),
        seeds_words=seeds_words,
        level=LEVEL,
        signals=shown_signals(findings),
        standing=standing(findings),
        signal_names=_known_signals(findings),
        signal_words=SIGNALS,
        ablations=ABLATIONS,
        kinds=KINDS,
        config=config,
        hard_steps=HARD_STEPS,
    )


def _known_signals(findings: Findings) -> list[str]:
    """The signals that some router of the run estimates, in one order."""
    return [name for name in SIGNALS if any(name in s.correlations for s in findings.signals)]


def _best_first(scores: dict[str, list[float | None]]) -> list[tuple[str, list[float | None]]]:
    """AUROCs by router; those of highest mean first."""

    def mean(item: tuple[str, list[float | None]]) -> float:
        return float(np.mean([value for value in item[1] if value is not None]))

    return sorted(scores.items(), key=mean, reverse=True)


def _trained(facts: dict[str, Any], rows: list[RouterRow]) -> list[dict[str, Any]]:
    """One line a trained router: how its constraint ended, and its selected threshold on test tasks
    (None where it has no arm).
    """
    row_by_router = {(row.name, row.training_seed): row for row in rows if row.selected}
    return [
        line | {"row": row_by_router.get((line["name"], line["training_seed"]))}
        for line in facts["router_training"] or []
    ]
