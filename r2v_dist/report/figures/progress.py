"""The figure of what ran when: a row for each stage and each group of processes, without the time
in which no driver was there.
"""

from collections.abc import Sequence
from typing import Any

from r2v_dist.report.figures.drawing import ACCENT, BAD, GOOD, INK, MUTED
from r2v_dist.report.timeline import Bar

_PAUSE_SHARE = 0.05
"""A pause that is longer than this share of what ran is cut out."""


def height(bars: Sequence[Bar]) -> float:
    """Of the figure, in inches."""
    return 0.9 + 0.24 * len(_rows(bars))


def what_ran_when(figure: Any, bars: Sequence[Bar]) -> None:
    """Bars over minutes."""
    ax = figure.subplots()
    rows = _rows(bars)
    pauses = _pauses(bars)
    start = min(bar.begun for bar in bars)
    for bar in bars:
        place = len(rows) - 1 - rows.index(bar.row)
        left, right = (_minutes(time, start, pauses) for time in (bar.begun, bar.ended))
        colour = ACCENT if bar.kind == "stage" else GOOD
        ax.barh(place, right - left, left=left, height=0.62, color=colour, alpha=0.85)
        if bar.ready_s:
            ready = _minutes(bar.begun + bar.ready_s, start, pauses)
            ax.barh(place, ready - left, left=left, height=0.62, color="white", alpha=0.6)
        if bar.cut:
            ax.plot(right, place, marker="x", color=BAD, markersize=5)
    for begun, _ in pauses:
        ax.axvline(_minutes(begun, start, pauses), color=MUTED, linewidth=0.9, linestyle=":")
    ax.set_yticks(range(len(rows)), [_label(bars, row) for row in reversed(rows)], color=INK)
    ax.set(xlabel="minutes", ylim=(-0.6, len(rows) - 0.4), xlim=(0, None))
    ax.grid(visible=False, axis="y")


def _rows(bars: Sequence[Bar]) -> list[str]:
    return list(dict.fromkeys(bar.row for bar in bars))


def _label(bars: Sequence[Bar], row: str) -> str:
    """With what its processes ask for."""
    first = next(bar for bar in bars if bar.row == row)
    if first.kind == "stage":
        return row
    resources = [f"{first.gpus:g} GPUs"] if first.gpus else []
    resources += [f"{first.cpus:g} cores"] if first.cpus else []
    return f"{row} x {first.count}" + (f" ({', '.join(resources)})" if resources else "")


def _pauses(bars: Sequence[Bar]) -> list[tuple[float, float]]:
    """Beginning and length of the long times in which nothing ran."""
    pauses = []
    busy_time = 0.0
    end = 0.0
    for bar in sorted(bars, key=lambda bar: bar.begun):
        if end and bar.begun > end:
            pauses.append((end, bar.begun - end))
        busy_time += max(0.0, bar.ended - max(end, bar.begun))
        end = max(end, bar.ended)
    return [pause for pause in pauses if pause[1] > _PAUSE_SHARE * busy_time]


def _minutes(time: float, start: float, pauses: Sequence[tuple[float, float]]) -> float:
    """Since the start, without the pauses."""
    left_out = sum(min(length, max(0.0, time - begun)) for begun, length in pauses)
    return (time - start - left_out) / 60
