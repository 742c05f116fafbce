"""The simulated run under several seeds, worst cases last: `python -m benchmarks.router_simulated
[--seeds N] [CONFIG]`.

The result of one seed could be luck. Costs are compared with the exact cost of the best router of
the class.
"""

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path

from cluster.session import ray_session
from r2v_dist.config.simulated import SimulatedConfig, load_simulated
from r2v_dist.errors import UsageError
from r2v_dist.pipeline.simulated.judge import SimulatedReport
from r2v_dist.pipeline.simulated.run import render, simulate

CONFIG = Path(__file__).parent.parent / "configs" / "simulated.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", type=Path, default=CONFIG)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    try:
        configs = [
            _config(args.config, [*args.overrides, f"seed={seed}"]) for seed in range(args.seeds)
        ]
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    reports = []
    first = configs[0]
    session = ray_session(first.cluster, first.run_dir / "logs") if first.needs_ray else None
    with session or nullcontext():
        for config in configs:
            reports.append(simulate(config))
            print(f"seed {config.seed}\n{render(reports[-1])}\n", flush=True)
    print(json.dumps(summary(reports)))
    return 0


def _config(path: Path, overrides: list[str]) -> SimulatedConfig:
    config = load_simulated(path, overrides)
    if config is None:
        raise UsageError(f"{path}: not a simulated run; kind: simulated_router says that it is one")
    return config


def summary(reports: list[SimulatedReport]) -> dict[str, object]:
    """`ratio`: the optimum's cost over r2v's, in the worst seed."""
    rows = [report.row("r2v") for report in reports]
    costs = [report.row("r2v").cost / report.optimum for report in reports]
    savings = []
    for report in reports:
        if report.cvar_saving is not None:
            savings.append([round(value, 4) for value in report.cvar_saving])
    return {
        "name": "router_simulated",
        "ratio": round(1 / max(costs), 4),
        "reference": "the best latched router there is, exactly",
        "cost_over_optimum": [round(cost, 4) for cost in costs],
        "cvar": [round(row.cvar, 4) for row in rows],
        "cvar_saving": savings,
    }


if __name__ == "__main__":
    sys.exit(main())
