"""The value of a risk signal of a given quality on HumanEval+: `python -m
benchmarks.humaneval_signal`. SIMULATED SLM, no model.

The SLM is simulated (right or known-wrong programs at known rates, run for real in the sandbox);
its first-token entropy separates failing from right proposals with a given AUROC, which is nearly 1
for the oracle. Each quality is a separate live run of `configs/humaneval_simulated.yaml` with
several entropy thresholds, which come from MBPP+ validation tasks. Invariant: all qualities have
the same tasks, seeds and failures; only the signal differs.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from r2v_dist.config.run import load_config
from r2v_dist.evaluation.outcomes import arm_outcomes, router_rows
from r2v_dist.pipeline.run import execute

CONFIG = Path(__file__).parent.parent / "configs" / "humaneval_simulated.yaml"
ORACLE = 0.999999
RATES = [0.006, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5]
PAPER_SUCCESS = 0.943
PAPER_RATE = 0.0060
"""The paper's HumanEval+ row: 94.3 % success at 0.60 % LLM calls, from 91.9 % of SLM-only."""


@dataclass(frozen=True)
class Point:
    """One threshold: share of steps by the teacher, success, and its 95 % task-cluster interval."""

    rate: float
    success: float
    interval: tuple[float, float]


def frontier(auroc: float, folder: Path, overrides: list[str]) -> list[Point]:
    """Points of the entropy router from SLM-only up, by rate."""
    swept = ["evaluate.routers=[entropy]", f"evaluate.rates={RATES}"]
    config = load_config(
        CONFIG,
        [f"slm.signal_auroc={auroc}", f"run_dir={folder / f'auroc-{auroc:g}'}", *swept, *overrides],
    )
    outcomes = arm_outcomes(execute(config).rollouts("evaluate"))
    rows = router_rows(outcomes, config.alpha, config.evaluate.bootstrap, config.seed)
    points = []
    for row in rows:
        if row.name in ("slm_only", "entropy"):
            points.append(Point(row.llm_call_rate, row.success_rate, row.success_ci))
    return sorted(points, key=lambda point: point.rate)


def success_at(points: list[Point], rate: float) -> float:
    """Success at a rate, by mixing the two neighbouring thresholds."""
    for low, high in pairwise(points):
        if low.rate <= rate <= high.rate:
            share = (rate - low.rate) / (high.rate - low.rate) if high.rate > low.rate else 0.0
            return low.success + share * (high.success - low.success)
    return points[-1].success


def rate_for(points: list[Point], success: float) -> float | None:
    """The lowest rate at which mixing neighbouring thresholds reaches a success; None where it is
    out of reach.
    """
    for low, high in pairwise(points):
        if low.success < success <= high.success:
            share = (success - low.success) / (high.success - low.success)
            return low.rate + share * (high.rate - low.rate)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auroc", type=float, nargs="*", default=[0.6, 0.75, 0.9, ORACLE])
    parser.add_argument("--runs", type=Path, default=Path("runs/humaneval_signal"))
    parser.add_argument("overrides", nargs="*", help="key=value, as for `r2v run`")
    args = parser.parse_args()
    results = [result(auroc, args.runs, args.overrides) for auroc in args.auroc]
    print_table(results)
    published = {
        "name": "humaneval_signal",
        "simulated": True,
        "paper": [PAPER_RATE, PAPER_SUCCESS],
        "results": results,
    }
    print(json.dumps(published))


def result(auroc: float, runs: Path, overrides: list[str]) -> dict[str, Any]:
    """The frontier of one quality of the signal, beside the paper's row."""
    points = frontier(auroc, runs, overrides)
    reached = rate_for(points, PAPER_SUCCESS)
    shown = []
    for point in points:
        low, high = point.interval
        numbers = (point.rate, point.success, low, high)
        shown.append([round(number, 4) for number in numbers])
    return {
        "auroc": auroc,
        "success_at_paper_rate": round(success_at(points, PAPER_RATE), 4),
        "rate_for_paper_success": None if reached is None else round(reached, 4),
        "frontier": shown,
    }


def print_table(results: list[dict[str, Any]]) -> None:
    """One quality of the signal a line, then the paper's row."""
    print("SIMULATED SLM on HumanEval+; no number here is a result about a model")
    success_title = f"success at {PAPER_RATE:.2%} calls"
    rate_title = f"calls for {PAPER_SUCCESS:.1%}"
    print(f"{'signal AUROC':<14}{success_title:>24}{rate_title:>20}")
    for values in results:
        name = "oracle" if values["auroc"] == ORACLE else f"{values['auroc']:g}"
        rate = values["rate_for_paper_success"]
        shown_rate = "out of reach" if rate is None else f"{rate:.2%}"
        print(f"{name:<14}{values['success_at_paper_rate']:>24.1%}{shown_rate:>20}")
    print(f"{'the paper':<14}{PAPER_SUCCESS:>24.1%}{PAPER_RATE:>20.2%}")


if __name__ == "__main__":
    main()
