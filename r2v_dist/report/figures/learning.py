"""Figures of how the SLM and its verifier learned: losses, DPO margins, the verifier's reliability
and ROC.
"""

import math
from typing import Any

from r2v_dist.files import read_json_object
from r2v_dist.report.figures.drawing import ACCENT, BAD, GOOD, MUTED, metrics
from r2v_dist.storage.run_dir import RunDir

Logged = list[dict[str, Any]]


def behaviour_cloning(figure: Any, logged: Logged) -> None:
    """Loss a token."""
    ax = figure.subplots()
    ax.plot(*_series(logged, "loss"), color=ACCENT)
    ax.set(xlabel="optimizer step", ylabel="cross-entropy, nats a token", ylim=(0, None))


def preferences(figure: Any, logged: Logged) -> None:
    """The three terms of the loss, and how far the chosen answer is from the rejected one."""
    losses, margins = figure.subplots(1, 2)
    for name, colour, label in (
        ("loss/dpo", ACCENT, "DPO"),
        ("loss/sft", GOOD, "SFT on a+"),
        ("loss/consistency", "#db7706", "consistency"),
    ):
        losses.plot(*_series(logged, name), color=colour, label=label)
    losses.set(title="terms of the loss", xlabel="optimizer step", ylim=(0, None))
    losses.legend(fontsize=8.5)
    for name, colour, label in (
        ("rewards/margins", ACCENT, "margin"),
        ("rewards/chosen", GOOD, "chosen"),
        ("rewards/rejected", BAD, "rejected"),
    ):
        margins.plot(*_series(logged, name), color=colour, label=label)
    margins.axhline(0, color=MUTED, linewidth=0.8)
    margins.set(title="implicit rewards", xlabel="optimizer step")
    margins.legend(fontsize=8.5)


def verifier(figure: Any, curves: dict[str, Any], auroc: float | None) -> None:
    """Reliability and ROC on validation states, before calibration."""
    left, right = figure.subplots(1, 2)
    for ax in (left, right):
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    bins = curves["reliability"]
    largest = max(b["branches"] for b in bins)
    left.plot([b["forecast"] for b in bins], [b["observed"] for b in bins], color=ACCENT)
    left.scatter(
        [b["forecast"] for b in bins],
        [b["observed"] for b in bins],
        [15 + 150 * b["branches"] / largest for b in bins],
        color=ACCENT,
    )
    left.set(title="reliability", xlabel="V of the candidate", ylabel="branches that succeeded")
    right.plot(
        [p[0] for p in curves["roc"]], [p[1] for p in curves["roc"]], color=ACCENT, linewidth=2
    )
    has_auroc = auroc is not None and not math.isnan(auroc)
    right.set(
        title=f"ROC, AUROC {auroc:.3f}" if has_auroc else "ROC",
        xlabel="failed branches above",
        ylabel="successful branches above",
    )


def verifier_curves(run: RunDir, stage: str) -> tuple[dict[str, Any], float | None] | None:
    """What the verifier stage measured on validation states; None for verifiers that are not
    trained, or before it measured curves.
    """
    manifest = run.manifest(stage)
    if manifest is None:
        return None
    path = run.root / manifest.results["checkpoint"] / "verifier.json"
    facts = read_json_object(path) if path.is_file() else {}
    return (
        (facts["curves"], manifest.results["validation"].get("auroc"))
        if "curves" in facts
        else None
    )


def logged_by(run: RunDir, stage: str) -> Logged:
    """Losses of a learner's stage."""
    return [row for row in metrics(run.root / "stages" / stage / "metrics.jsonl") if "loss" in row]


def _series(logged: Logged, name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in logged if row.get(name) is not None]
    return [row["step"] for row in rows], [row[name] for row in rows]
