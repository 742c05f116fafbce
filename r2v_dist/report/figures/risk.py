"""Figures of the predicted risk: is it right, when does it rise, and how its router was trained."""

from typing import Any

import numpy as np

from r2v_dist.evaluation.comparison import REFERENCE
from r2v_dist.evaluation.results import Findings
from r2v_dist.evaluation.risk_quality import RiskQuality
from r2v_dist.evaluation.trained_routers import Forecasts
from r2v_dist.report.figures.drawing import ACCENT, BAD, GOOD, INK, MUTED, percent_axis
from r2v_dist.report.figures.palette import COLOURS, LABELS
from r2v_dist.stats.calibration_error import BINS, equal_width, reliability_bins

FEWEST = 5
"""Episodes below which a mean over a step is not drawn."""


def reliability(figure: Any, findings: Findings) -> None:
    """Observed failures against predicted risk, and how many steps are in each bin."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    above.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    forecasts = findings.forecasts[0]
    for name, width, alpha in (("r2v_uncalibrated", 1.2, 0.55), (REFERENCE, 2.2, 1.0)):
        if name not in forecasts.rho:
            continue
        rho_N = forecasts.rho[name]
        n_N = np.ones(len(forecasts.steps.failed_N))
        bins = reliability_bins(rho_N, forecasts.steps.failed_N, n_N, equal_width(rho_N, BINS))
        style = {"color": COLOURS[name], "alpha": alpha}
        above.plot(
            [b.forecast for b in bins],
            [b.observed for b in bins],
            "-",
            linewidth=width,
            label=LABELS[name],
            **style,
        )
        sizes = np.array([b.branches for b in bins])
        above.scatter(
            [b.forecast for b in bins],
            [b.observed for b in bins],
            14 + 190 * sizes / sizes.max() * (name == REFERENCE),
            **style,
        )
    quality = next((q for q in findings.risk if q.name == REFERENCE), None)
    if quality is not None:
        above.text(
            0.03,
            0.97,
            _measures(quality),
            transform=above.transAxes,
            va="top",
            fontsize=8.5,
            color=INK,
            linespacing=1.45,
        )
    above.set(ylabel="episodes that failed", ylim=(-0.03, 1.03))
    above.legend(loc="lower right", fontsize=8.5)
    below.hist(
        forecasts.rho[REFERENCE],
        bins=np.linspace(0, 1, BINS + 1),
        color=COLOURS[REFERENCE],
        alpha=0.75,
    )
    below.set(
        xlabel="predicted risk  $\\hat{\\rho}$ that the SLM fails from here",
        ylabel="steps",
        xlim=(-0.02, 1.02),
    )
    percent_axis(above.yaxis)


def over_steps(figure: Any, forecasts: Forecasts) -> None:
    """Mean predicted risk by step, for SLM-only episodes that fail and that succeed."""
    ax = figure.subplots()
    steps = forecasts.steps
    rho_N = forecasts.rho[REFERENCE]
    for failure, colour, label in (
        (1.0, BAD, "the SLM fails in the end"),
        (0.0, GOOD, "the SLM succeeds in the end"),
    ):
        alike_N = steps.failed_N == failure
        times = [
            t
            for t in range(int(steps.t_N.max()) + 1)
            if (alike_N & (steps.t_N == t)).sum() >= FEWEST
        ]
        values = [rho_N[alike_N & (steps.t_N == t)] for t in times]
        if not times:
            continue
        low, high = np.array([np.quantile(v, [0.25, 0.75]) for v in values]).T
        ax.fill_between(times, low, high, color=colour, alpha=0.12, linewidth=0)
        ax.plot(times, [v.mean() for v in values], "-o", color=colour, markersize=4, label=label)
        ax.annotate(
            f"{len(values[-1])} left",
            (times[-1], values[-1].mean()),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
        )
    ax.set(xlabel="step t", ylabel="predicted risk  $\\hat{\\rho}_t$", ylim=(0, 1.02))
    ax.xaxis.get_major_locator().set_params(integer=True)
    if ax.lines:  # a small run has no step with enough states
        ax.legend(loc="lower right", fontsize=9)


def training(figure: Any, logged: dict[int, list[dict[str, Any]]], epsilon: float) -> None:
    """CVaR with its eta, the multiplier, and the cost, one line a training seed."""
    cvar, multiplier, cost = figure.subplots(1, 3)
    for i, rows in enumerate(logged.values()):
        step = [row["step"] for row in rows]
        first = i == 0
        cvar.plot(
            step,
            [row["cvar"] for row in rows],
            color=ACCENT,
            linewidth=1.6,
            alpha=0.9,
            label="CVaR of failure" if first else None,
        )
        cvar.plot(
            step,
            [row["eta"] for row in rows],
            color=MUTED,
            linewidth=1.0,
            alpha=0.9,
            label="$\\eta$" if first else None,
        )
        multiplier.plot(step, [row["lambda"] for row in rows], color="#db7706", linewidth=1.6)
        cost.plot(step, [row["cost"] for row in rows], color=GOOD, linewidth=1.6)
    cvar.axhline(
        epsilon, color=BAD, linewidth=1.2, linestyle="--", label=f"$\\epsilon$ = {epsilon:g}"
    )
    cvar.legend(fontsize=8.5)
    cvar.set(
        title="CVaR over training seeds z",
        xlabel="optimizer step",
        ylim=(min(0.0, *cvar.get_ylim()), None),
    )
    multiplier.set(title="multiplier $\\lambda$", xlabel="optimizer step", ylim=(0, None))
    cost.set(title="cost, teacher calls an episode", xlabel="optimizer step", ylim=(0, None))


def _measures(quality: RiskQuality) -> str:
    return "\n".join(
        [
            f"Brier {quality.brier:.3f}  (constant {quality.constant_brier:.3f})",
            f"ECE-15 {quality.ece15:.3f}  (perfect {quality.perfect_ece:.3f} – "
            f"{quality.perfect_ece_shared:.3f})",
            "AUROC of $\\hat{\\rho}$ " + ("–" if quality.auroc is None else f"{quality.auroc:.3f}"),
        ]
    )
