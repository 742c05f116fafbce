"""Routers trained on the simulated world, their exact cost and CVaR beside the best there is: `python -m benchmarks.router_simulated`."""

import sys
import time
from pathlib import Path

from benchmarks.simulated_benchmark import Row, SimulatedReport, load_simulated, run_simulated
from r2v_dist.errors import UsageError

CONFIG = Path(__file__).parent.parent / "configs" / "simulated.yaml"


def render(report: SimulatedReport) -> str:
    lines = [f"{'router':<20}{'cost':>8}{'x best':>8}{'x own':>8}{'failure':>9}{'CVaR':>8}{'val.':>8}  threshold"]
    lines += [_line(row, report.optimum) for row in report.rows]
    lines.append(f"best router there is: {report.optimum:.3f} teacher calls an episode; {report.optimum_unlatched:.3f} if it may hand back")
    lines.append("best with the mean bounded instead of CVaR: {:.3f} teacher calls, CVaR {:.3f}".format(*report.mean_optimum))
    if report.cvar_gain is not None:
        lines.append("without CVaR it is larger by {:.3f} (95 % interval {:.3f} to {:.3f}, paired by task)".format(*report.cvar_gain))
    return "\n".join(lines)


def _line(row: Row, optimum: float) -> str:
    own = f"{row.cost / row.best_cost:.3f}" if row.best_cost else "-"
    threshold = "" if row.threshold is None else f"{row.threshold:.4g}"
    numbers = f"{row.cost:>8.3f}{row.cost / optimum:>8.3f}{own:>8}{row.failure:>9.3f}{row.cvar:>8.3f}{row.validation_cvar:>8.3f}"
    return f"{row.name:<20}{numbers}  {threshold:<10}{row.note}".rstrip()


def main() -> int:
    started = time.monotonic()
    try:
        config = load_simulated(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFIG)
        report = run_simulated(config)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    print("SIMULATED: exact values of a world whose probabilities are known; costs in teacher calls an episode")
    print(render(report))
    print(f"{time.monotonic() - started:.0f} s; routers in {config.run_dir / 'checkpoints'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
