"""The report's figures: one colour a router everywhere, intervals drawn wherever they are known."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.compute as pc

from r2v_dist import rollout_store
from r2v_dist.evaluation import RouterRow
from r2v_dist.report.palette import COLOURS, LABELS
from r2v_dist.run_dir import RunDir


@dataclass(frozen=True)
class Figure:
    """A drawn figure: inline SVG for the page, and what it shows."""

    name: str
    title: str
    caption: str
    svg: str


def draw_figures(run: RunDir, rows: list[RouterRow], folder: Path) -> list[Figure]:
    """Draw everything there is data for, with a PNG copy of each in `folder`."""
    plt.rcParams.update(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e2e8f0",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
        }
    )
    drawn = [
        _draw(
            folder,
            "frontier",
            "Success against LLM-call rate",
            "Test tasks and seeds, live. Bars are 95 % intervals over tasks (cluster bootstrap).",
            lambda ax: _frontier(ax, rows),
        ),
        _draw(
            folder,
            "seeds",
            "Success under each perturbation seed",
            "One dot a seed, all test tasks; the bar is the mean. A router that is good on average can still fail under a harsh seed.",
            lambda ax: _seeds(ax, run, rows),
        ),
    ]
    metrics = run.stage("bc") / "metrics.jsonl"
    if metrics.is_file():
        logged = [json.loads(line) for line in metrics.read_text().splitlines()]
        drawn.append(
            _draw(
                folder,
                "training",
                "Behaviour cloning loss",
                "Cross-entropy a token, in nats, on action tokens of the teacher's successful episodes.",
                lambda ax: _training(ax, logged),
            )
        )
    return drawn


def _draw(folder: Path, name: str, title: str, caption: str, paint: Callable[[Any], None]) -> Figure:
    figure, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    paint(ax)
    figure.savefig(folder / f"{name}.png", dpi=150)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    text = buffer.getvalue()
    return Figure(name, title, caption, text[text.index("<svg") :])


def _frontier(ax: Any, rows: list[RouterRow]) -> None:
    anchors = [row for row in rows if row.threshold is None]
    ends = {row.name: row for row in anchors}
    for name in dict.fromkeys(row.name for row in rows):
        own = sorted((row for row in rows if row.name == name), key=lambda r: r.llm_call_rate)
        swept = own[0].threshold is not None
        line = [ends["slm_only"], *own, ends["teacher_only"]] if swept else own
        ax.plot([r.llm_call_rate for r in line], [r.success_rate for r in line], "-", color=COLOURS[name], alpha=0.35, linewidth=1.5)
        rate = np.array([r.success_rate for r in own])
        low, high = np.array([r.success_ci for r in own]).T
        ax.errorbar(
            [r.llm_call_rate for r in own],
            rate,
            yerr=[np.maximum(0, rate - low), np.maximum(0, high - rate)],
            fmt="o" if swept else "s",
            color=COLOURS[name],
            capsize=3,
            label=LABELS[name],
        )
    ax.set_xlabel("LLM-call rate (share of steps by the teacher)")
    ax.set_ylabel("success rate")
    ax.set_xlim(-0.03, 1.03)
    ax.legend(frameon=False, loc="lower right")


def _seeds(ax: Any, run: RunDir, rows: list[RouterRow]) -> None:
    table = rollout_store.outcomes(rollout_store.read(run.rollouts("evaluate"), ["t", "z", "router", "threshold", "success"]))
    table = table.filter(pc.is_valid(table["z"]))
    labels = []
    for position, row in enumerate(rows):
        own = table.filter(pc.equal(table["router"], row.name))
        if row.threshold is not None:
            own = own.filter(pc.equal(own["threshold"], row.threshold))
        grouped = own.group_by("z").aggregate([("success", "mean")])
        ax.scatter(
            grouped["success_mean"].to_numpy(), np.full(grouped.num_rows, position), s=22, color=COLOURS[row.name], alpha=0.55, linewidths=0
        )
        ax.plot([row.success_rate] * 2, [position - 0.3, position + 0.3], color=COLOURS[row.name], linewidth=2.5)
        labels.append(row.name if row.threshold is None else f"{row.name} @ {row.threshold:.2g}")
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set_xlabel("success rate under one seed")


def _training(ax: Any, logged: list[dict[str, Any]]) -> None:
    ax.plot([row["step"] for row in logged], [row["loss"] for row in logged], color=COLOURS["entropy"])
    ax.set_xlabel("optimizer step")
    ax.set_ylabel("loss")
    ax.set_ylim(bottom=0)
