"""How a figure is drawn: inline SVG for the page and a PNG copy, the same bytes for the
same data.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from r2v_dist.files import read_json_lines

INK = "#0f172a"
MUTED = "#64748b"
LINE = "#e2e8f0"
ACCENT = "#4338ca"
BAD = "#b91c1c"
GOOD = "#0f766e"
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155",
    "axes.titlesize": 10,
    "axes.titlecolor": "#334155",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}


@dataclass(frozen=True)
class Figure:
    """A drawn figure: inline SVG for the page, the section it belongs to, and what it shows. `wide`
    ones span the page.
    """

    name: str
    section: str
    title: str
    caption: str
    wide: bool
    svg: str


def draw(
    folder: Path,
    name: str,
    section: str,
    title: str,
    caption: str,
    paint: Callable[[Any], None],
    size: tuple[float, float] = (5.1, 3.9),
) -> Figure:
    """Let `paint` fill a matplotlib figure of `size` inches; wider than a column, it spans the
    page.
    """
    # Ids inside an SVG are derived from the salt: figures of one page must not share any, and a
    # second report must not differ.
    with plt.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = plt.figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(folder / f"{name}.png", dpi=150)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    text = buffer.getvalue()
    label = f'<svg role="img" aria-label="{title}"'
    return Figure(
        name,
        section,
        title,
        caption,
        size[0] > 6,
        text[text.index("<svg") :].replace("<svg", label, 1),
    )


def metrics(path: Path) -> list[dict[str, Any]]:
    """What a stage logged; nothing where it logged nothing."""
    return read_json_lines(path)


def percent_axis(axis: Any) -> None:
    """Ticks of shares as percentages."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
