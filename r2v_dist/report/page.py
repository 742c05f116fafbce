"""The report as one self-contained HTML file: no script, no network, readable on paper."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from r2v_dist.evaluation import RouterRow
from r2v_dist.report.figures import Figure
from r2v_dist.report.palette import COLOURS, LABELS
from r2v_dist.report.samples import Sample


def render_page(
    facts: dict[str, Any],
    training: list[dict[str, Any]],
    rows: list[RouterRow],
    clean: list[RouterRow],
    figures: list[Figure],
    samples: list[Sample],
) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1%}"
    ends = {row.name: row for row in rows if row.threshold is None}
    return environment.get_template("page.html.jinja").render(
        facts=facts,
        training=training,
        rows=rows,
        clean={row.name: row for row in clean},
        ends=ends,
        figures=figures,
        samples=samples,
        colours=COLOURS,
        labels=LABELS,
    )
