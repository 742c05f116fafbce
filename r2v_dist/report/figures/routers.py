"""Figures of what routers achieve: success against cost, ablations one by one, success under every
seed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from r2v_dist.evaluation.comparison import REFERENCE
from r2v_dist.evaluation.outcomes import RouterRow
from r2v_dist.evaluation.results import Findings
from r2v_dist.report.figures.drawing import INK, percent_axis
from r2v_dist.report.figures.palette import (
    ABLATIONS,
    COLOURS,
    ENDS,
    LABELS,
    MARKERS,
    is_fitted,
    listed,
)
from r2v_dist.report.published import Published

_COLUMNS = 4
"""Small panels beside each other."""


def frontier(
    figure: Any, findings: Findings, published: Published | None, slm_only_router: str
) -> None:
    """r2v in front of every other router but its ablations: on the left of the unfitted ones, on
    the right, where there are any, of those that learned from data.
    """
    routers = dict.fromkeys(row.name for row in findings.perturbed)
    other_routers = [name for name in routers if name not in (*ABLATIONS, *ENDS, REFERENCE)]
    panels = {
        "against unfitted routers": [name for name in other_routers if not is_fitted(name)],
        "against fitted routers": [name for name in other_routers if is_fitted(name)],
    }
    filled_panels = {title: names for title, names in panels.items() if names} or {"": []}
    axes = np.atleast_1d(figure.subplots(1, len(filled_panels), sharey=True))
    for ax, (title, names) in zip(axes, filled_panels.items(), strict=True):
        _panel(ax, findings, names, slm_only_router)
        ax.set_title(title)
    axes[0].set_ylabel("success rate")
    _mark_selected(axes[-1], findings)
    if published is not None:
        _star(axes[0], published)
    rows = findings.perturbed
    lowest = [row.success_rate for row in rows]
    if published is not None:
        lowest.append(published.success_rate)
    low = min(lowest)
    axes[0].set_ylim(max(-0.02, low - 0.07), 1.03)
    percent_axis(axes[0].yaxis)


def _panel(ax: Any, findings: Findings, names: Sequence[str], slm_only_router: str) -> None:
    """Some routers, muted but for the one that is best at r2v's calls; r2v and the ends on top."""
    rows = findings.perturbed
    comparisons = findings.comparisons
    best_comparisons = (
        [] if comparisons is None else [comparisons.best(True), comparisons.best(False)]
    )
    best = {comparison.other for comparison in best_comparisons if comparison is not None}
    for name in names:
        bold = name in best
        _sweep(
            ax,
            rows,
            name,
            slm_only_router,
            linewidth=2.0 if bold else 1.0,
            size=6 if bold else 4,
            alpha=1.0 if bold else 0.5,
        )
    if any(row.name == REFERENCE for row in rows):
        _sweep(
            ax, rows, REFERENCE, slm_only_router, linewidth=2.6, size=6.5, alpha=1.0, intervals=True
        )
    for name in ENDS:
        # Best-of-K may be just above the SLM: one label goes above its point, the other below.
        _end(ax, [row for row in rows if row.name == name], 6 if name == "best_of_k" else -14)
    ax.set(xlabel="LLM-call rate: share of all steps by the teacher", xlim=(-0.03, 1.04))
    percent_axis(ax.xaxis)
    style = {"fontsize": 8, "handlelength": 2.0, "columnspacing": 1.2}
    legend = ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, **style)
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)


def _star(ax: Any, published: Published) -> None:
    """A result from the literature."""
    place = (published.llm_call_rate, published.success_rate)
    ax.plot(
        [published.llm_call_rate],
        [published.success_rate],
        marker="*",
        markersize=15,
        color="white",
        markeredgecolor=INK,
        linestyle="none",
        zorder=6,
    )
    _label(ax, published.text, place, (14, -52), INK, "normal")


def ablations(figure: Any, findings: Findings, slm_only_router: str) -> None:
    """One panel an ablation, with r2v behind it."""
    names = [name for name in ABLATIONS if any(row.name == name for row in findings.perturbed)]
    grid = figure.subplots(panel_rows(len(names)), _COLUMNS, sharex=True, sharey=True).ravel()
    for ax, name in zip(grid, names, strict=False):
        _sweep(
            ax, findings.perturbed, REFERENCE, slm_only_router, linewidth=4.5, size=0, alpha=0.22
        )
        _sweep(ax, findings.perturbed, name, slm_only_router, linewidth=1.8, size=5, alpha=1.0)
        ax.set_title(LABELS[name], fontsize=10, color=COLOURS[name], fontweight="bold")
        ax.set_xlabel("LLM-call rate")
        ax.tick_params(labelbottom=True)
        percent_axis(ax.xaxis)
        percent_axis(ax.yaxis)
    for ax in grid[len(names) :]:
        ax.set_visible(False)
    grid[0].set_ylabel("success rate")


def panel_rows(count: int) -> int:
    """Rows of so many small panels."""
    return -(-count // _COLUMNS)


def seeds(figure: Any, findings: Findings) -> None:
    """Bars under each perturbation seed: both ends, r2v, and the best baseline for the same teacher
    calls.
    """
    ax = figure.subplots()
    groups = [
        (label, colour, values)
        for label, colour, values in _by_seed(findings)
        if values is not None
    ]
    zs = findings.seeds[0].arms[0].zs
    width = 0.84 / len(groups)
    for i, (label, colour, values_Z) in enumerate(groups):
        offset = (i - (len(groups) - 1) / 2) * width
        ax.bar(
            np.arange(len(zs)) + offset, values_Z, width * 0.92, color=colour, label=label, zorder=2
        )
        ax.plot(
            [-0.6, len(zs) - 0.4],
            [values_Z.min()] * 2,
            color=colour,
            linewidth=1,
            linestyle=":",
            zorder=3,
        )
    ax.set_xticks(range(len(zs)), [str(z) for z in zs])
    ax.set(
        xlabel="perturbation seed z",
        ylabel="success rate",
        xlim=(-0.6, len(zs) - 0.4),
        ylim=(0, 1.02),
    )
    ax.grid(visible=False, axis="x")
    percent_axis(ax.yaxis)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=len(groups), fontsize=9)


def _by_seed(findings: Findings) -> list[tuple[str, str, Any]]:
    """Label, colour and success by seed, mean over tasks and training seeds; None where a run has
    no such router.
    """
    slm_only_router = findings.seeds[0].slm_only_router
    ends = [
        (LABELS[name], COLOURS[name], _mean([s.points(name)[0] for s in findings.seeds]))
        for name in (slm_only_router, "teacher_only")
    ]
    arms = [arm for s in findings.seeds if (arm := s.chosen(REFERENCE)) is not None]
    middle: list[tuple[str, str, Any]] = [
        ("r2v, selected", COLOURS[REFERENCE], _mean(arms) if arms else None)
    ]
    best = findings.comparisons.best_at_cost if findings.comparisons else None
    if best is not None and len(arms) == len(findings.seeds):
        matched = [
            s.matched(best, float(arm.calls_TZ.mean()))
            for s, arm in zip(findings.seeds, arms, strict=True)
        ]
        values = np.mean([m.mean(axis=0) for m in matched if m is not None], axis=0)
        middle.insert(0, (f"{listed(best)}, as many calls", COLOURS[best], values))
    return [ends[0], *middle, ends[1]]


def _mean(arms: Sequence[Any]) -> Any:
    return np.mean([arm.success_TZ.mean(axis=0) for arm in arms], axis=0)


def _sweep(
    ax: Any,
    rows: list[RouterRow],
    name: str,
    slm_only_router: str,
    *,
    linewidth: float,
    size: float,
    alpha: float,
    intervals: bool = False,
) -> None:
    """One line a training seed, from the SLM's end over the operating points to the teacher's."""
    for training_seed in sorted({row.training_seed for row in rows if row.name == name}):
        seed_rows = [row for row in rows if row.training_seed == training_seed]
        points = sorted(
            (row for row in seed_rows if row.name == name), key=lambda row: row.llm_call_rate
        )
        ends = {row.name: row for row in seed_rows if row.threshold is None}
        line = [ends[slm_only_router], *points, ends["teacher_only"]]
        style = {"color": COLOURS[name], "alpha": alpha, "zorder": 4 if name == REFERENCE else 2}
        ax.plot(
            [row.llm_call_rate for row in line],
            [row.success_rate for row in line],
            "-",
            linewidth=linewidth,
            **style,
        )
        x = [row.llm_call_rate for row in points]
        y = np.array([row.success_rate for row in points])
        if intervals:
            low, high = np.array([row.success_ci for row in points]).T
            bars = [np.maximum(0, y - low), np.maximum(0, high - y)]
            ax.errorbar(x, y, yerr=bars, fmt="none", capsize=2.5, linewidth=1.2, **style)
        label = LABELS[name] if training_seed == min(row.training_seed for row in rows) else None
        if size:
            ax.plot(
                x,
                y,
                MARKERS.get(name, "o"),
                markersize=size,
                markeredgewidth=0,
                label=label,
                **style,
            )


def _mark_selected(ax: Any, findings: Findings) -> None:
    rows = [row for row in findings.perturbed if row.name == REFERENCE and row.selected]
    for row in rows:
        ax.plot(
            [row.llm_call_rate],
            [row.success_rate],
            "o",
            markersize=14,
            markerfacecolor="none",
            color=COLOURS[REFERENCE],
            zorder=5,
        )
    if rows:
        row = rows[0]
        text = f"r2v, selected on validation\n{row.success_rate:.1%} at {row.llm_call_rate:.1%}"
        _label(
            ax, text, (row.llm_call_rate, row.success_rate), (30, -80), COLOURS[REFERENCE], "bold"
        )


def _label(
    ax: Any,
    text: str,
    point: tuple[float, float],
    offset: tuple[int, int],
    colour: str,
    weight: str,
) -> None:
    """A boxed label off the point, on a line to it: the curves below stay readable."""
    box = {
        "boxstyle": "round,pad=0.3",
        "facecolor": "white",
        "edgecolor": colour,
        "linewidth": 0.6,
        "alpha": 0.93,
    }
    arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkB": 7}
    style = {
        "fontsize": 9,
        "fontweight": weight,
        "color": colour,
        "va": "top",
        "textcoords": "offset points",
        "zorder": 7,
    }
    ax.annotate(text, point, xytext=offset, bbox=box, arrowprops=arrow, **style)


def _end(ax: Any, rows: list[RouterRow], height: int) -> None:
    for row in rows:
        colour = COLOURS[row.name]
        bars = [
            [max(0.0, row.success_rate - row.success_ci[0])],
            [max(0.0, row.success_ci[1] - row.success_rate)],
        ]
        ax.errorbar(
            [row.llm_call_rate],
            [row.success_rate],
            yerr=bars,
            fmt="s",
            markersize=8,
            capsize=3,
            color=colour,
            zorder=5,
        )
    if rows:
        right = rows[0].llm_call_rate > 0.5
        place, side = ((-6, -26), "right") if right else ((10, height), "left")
        text = f"{LABELS[rows[0].name]} {rows[0].success_rate:.1%}"
        style = {"fontsize": 9, "color": COLOURS[rows[0].name], "ha": side}
        ax.annotate(
            text,
            (rows[0].llm_call_rate, rows[0].success_rate),
            xytext=place,
            textcoords="offset points",
            **style,
        )


def note(findings: Findings) -> str:
    """What the frontier's caption adds for several training seeds."""
    return (
        f" One line for each of {findings.training_seeds} training seeds."
        if findings.training_seeds > 1
        else ""
    )
