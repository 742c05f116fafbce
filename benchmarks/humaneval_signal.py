"""What a risk signal of a given quality buys on HumanEval+: `python -m
benchmarks.humaneval_signal`. SIMULATED SLM, no model.

The SLM is simulated (right or known-wrong programs at known rates, run for real in the sandbox);
its first-token entropy tells failing from right proposals with the AUROC that is asked for, and
nearly always for the oracle. Each quality is a run of its own of
`configs/humaneval_simulated.yaml`, live, entropy threshold swept; thresholds come from MBPP+
validation tasks. Invariant: all qualities face the same tasks, seeds and failures; what differs is
the signal.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from r2v_dist.config.run import load_config
from r2v_dist.evaluation.outcomes import arm_outcomes, router_rows
from r2v_dist.pipeline.run import execute

CONFIG = Path(__file__).parent.parent / "configs" / "humaneval_simulated.yaml"
ORACLE = 0.999999
RATES = [0.006, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5]
PAPER_SUCCESS = 0.943
PAPER_RATE = 0.0060
"""The paper's HumanEval+ row: 94.3 % success at 0.60 % LLM calls, from 91.9 % of the SLM alone."""


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
    rows = router_rows(
        arm_outcomes(execute(config).rollouts("evaluate")),
        config.alpha,
        config.evaluate.bootstrap,
        config.seed,
    )
    points = [
        Point(row.llm_call_rate, row.success_rate, row.success_ci)
        for row in rows
        if row.name in ("slm_only", "entropy")
    ]
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
            return low.rate + (success - low.success) / (high.success - low.success) * (
                high.rate - low.rate
            )
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--auroc", type=float, nargs="*", default=[0.6, 0.75, 0.9, ORACLE])
    parser.add_argument("--runs", type=Path, default=Path("runs/humaneval_signal"))
    parser.add_argument("overrides", nargs="*", help="key=value, as for `r2v run`")
    args = parser.parse_args()
    results = []
    for auroc in args.auroc:
        points = frontier(auroc, args.runs, args.overrides)
        reached = rate_for(points, PAPER_SUCCESS)
        results.append(
            {
                "auroc": auroc,
                "success_at_paper_rate": round(success_at(points, PAPER_RATE), 4),
                "rate_for_paper_success": None if reached is None else round(reached, 4),
                "frontier": [
                    (round(p.rate, 4), round(p.success, 4), *(round(end, 4) for end in p.interval))
                    for p in points
                ],
            }
        )
    print("SIMULATED SLM on HumanEval+; no number here is a result about a model")
    print(
        f"{'signal AUROC':<14}{'success at ' + f'{PAPER_RATE:.2%}' + ' calls':>24}{'calls for ' + f'{PAPER_SUCCESS:.1%}':>20}"
    )
    for result in results:
        name = "oracle" if result["auroc"] == ORACLE else f"{result['auroc']:g}"
        rate = result["rate_for_paper_success"]
        print(
            f"{name:<14}{result['success_at_paper_rate']:>24.1%}{'out of reach' if rate is None else f'{rate:.2%}':>20}"
        )
    print(f"{'the paper':<14}{PAPER_SUCCESS:>24.1%}{PAPER_RATE:>20.2%}")
    print(
        json.dumps(
            {
                "name": "humaneval_signal",
                "simulated": True,
                "paper": [PAPER_RATE, PAPER_SUCCESS],
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
