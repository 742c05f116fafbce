"""The report of a simulated run: one self-contained HTML file, every number labelled simulated."""

from pathlib import Path
from typing import Any

import numpy as np

from envs.simulated.env import CUES, SYMPTOMS
from envs.simulated.exact import Exact
from envs.simulated.labels import all_cells
from envs.simulated.optimum import Frontier
from learners.router.train import RouterResult
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.files import read_json_lines, write_atomically
from r2v_dist.pipeline.simulated.judge import SimulatedReport
from r2v_dist.report.figures.drawing import ACCENT, BAD, GOOD, MUTED, Figure, draw
from r2v_dist.report.html.templates import render
from r2v_dist.router.model import RouterModel

_SECTION = "simulated"
_WIDE = (10.4, 3.9)


def write_page(
    config: SimulatedConfig, exact: Exact, report: SimulatedReport, results: dict[str, RouterResult]
) -> Path:
    """Write `report/index.html` and return its path."""
    models = {name: RouterModel.load(Path(result.output)) for name, result in results.items()}
    folder = config.run_dir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    figures = [_frontier(folder, config, exact, report)]
    figures += [
        _decisions(folder, exact, models[name], name, report)
        for name in ("r2v", "r2v_no_cvar")
        if name in models
    ]
    if "r2v" in models:
        figures += [_risk(folder, exact, models["r2v"]), _duality(folder, config)]
    page = render("simulated.html.jinja", config=config, report=report, figures={_SECTION: figures})
    path = folder / "index.html"
    write_atomically(path, page)
    return path


def _frontier(
    folder: Path, config: SimulatedConfig, exact: Exact, report: SimulatedReport
) -> Figure:
    best = Frontier(exact)
    zs = range(config.seeds)
    alpha = config.router.alpha
    safest = next(row.cvar for row in report.rows if row.name == "teacher_only")
    bounds = np.linspace(safest + 0.002, max(row.cvar for row in report.rows), 40)

    def paint(figure: Any) -> None:
        ax = figure.subplots()
        ax.plot(
            bounds,
            [best.best(zs, alpha, float(bound)).cost for bound in bounds],
            color=GOOD,
            label="best there is (exact)",
        )
        for number, row in enumerate(sorted(report.rows, key=lambda row: row.cost)):
            colour = ACCENT if row.name.startswith("r2v") else MUTED
            on_right = number % 2 == 0
            ax.plot(row.cvar, row.cost, "o", color=colour, markersize=5)
            place: dict[str, Any] = {
                "xytext": (5, 3) if on_right else (-5, -9),
                "ha": "left" if on_right else "right",
            }
            ax.annotate(
                row.name,
                (row.cvar, row.cost),
                fontsize=7,
                textcoords="offset points",
                color=colour,
                **place,
            )
        ax.axvline(config.router.epsilon, linestyle="--", linewidth=1, color=BAD, label="epsilon")
        ax.set_yscale("log")
        ax.set_xlabel("CVaR of failure over seeds")
        ax.set_ylabel("teacher calls an episode")
        ax.legend(frameon=False, fontsize=8)

    return draw(
        folder,
        "frontier",
        _SECTION,
        "Cost against CVaR",
        "Exact. Lower left is better; left of the dashed line is allowed.",
        paint,
    )


def _decisions(
    folder: Path, exact: Exact, model: RouterModel, name: str, report: SimulatedReport
) -> Figure:
    """Scores at the third step with one part done, over cue and symptom."""
    score = model.predict(all_cells(exact.world)).score.reshape(exact.shape)
    mix = report.row(name).mix

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, 2)
        for jammed, ax in enumerate(axes):
            grid_VE = score[2, 1, jammed].T
            ax.imshow(grid_VE, vmin=0, vmax=1, cmap="Purples", aspect="auto")
            for (v, e), value in np.ndenumerate(grid_VE):
                asks = (
                    "teacher"
                    if mix is None or value >= max(mix.expensive, mix.cheap)
                    else "mixed"
                    if value >= min(mix.expensive, mix.cheap)
                    else "SLM"
                )
                ax.text(
                    e,
                    v,
                    asks,
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if value > 0.5 else "black",
                )
            ax.set_title("line jammed" if jammed else "line running", fontsize=9)
            ax.set_xticks(range(len(CUES)), CUES, rotation=35, fontsize=7)
            ax.set_yticks(
                range(len(SYMPTOMS)), SYMPTOMS if jammed == 0 else [""] * len(SYMPTOMS), fontsize=7
            )
            ax.grid(False)

    caption = (
        "The cue of the step's difficulty across, the symptom of the perturbation seed down; the "
        "darker, the higher the score."
    )
    title = f"Whom {name} lets act at the third step"
    return draw(folder, f"decisions_{name}", _SECTION, title, caption, paint, _WIDE)


def _risk(folder: Path, exact: Exact, model: RouterModel) -> Figure:
    rho_N = model.predict(all_cells(exact.world)).rho
    size = exact.reached_TIJEV.ravel()

    def paint(figure: Any) -> None:
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], color=GOOD, linewidth=1)
        ax.scatter(
            exact.rho.ravel()[size > 0],
            rho_N[size > 0],
            s=200 * size[size > 0] + 1,
            color=ACCENT,
            alpha=0.4,
            linewidths=0,
        )
        ax.set_xlabel("true risk of failure when the SLM goes on")
        ax.set_ylabel("what r2v says")

    return draw(
        folder,
        "risk",
        _SECTION,
        "Is the risk right?",
        "One dot for every state that can occur, as large as it is likely.",
        paint,
    )


def _duality(folder: Path, config: SimulatedConfig) -> Figure:
    log = read_json_lines(config.folder / "stages" / "router" / "metrics.jsonl")
    rows = [row for row in log if row["router"] == "r2v" and row["phase"] == "policy"]

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, 2)
        steps = [row["step"] for row in rows]
        for ax, names in zip(axes, (("cvar", "eta"), ("lambda", "cost")), strict=True):
            for name, colour in zip(names, (ACCENT, MUTED), strict=True):
                ax.plot(steps, [row[name] for row in rows], color=colour, label=name)
            ax.legend(frameon=False, fontsize=8)
            ax.set_xlabel("step")
        axes[0].axhline(config.router.epsilon, linestyle="--", linewidth=1, color=BAD)

    caption = (
        "Lambda rises while CVaR is above epsilon (dashed) and falls below it; cost is a share of "
        "teacher-only's."
    )
    return draw(folder, "training", _SECTION, "Training r2v's policy", caption, paint, _WIDE)
