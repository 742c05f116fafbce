"""The cost of a live evaluation of many routers beside that of one, in model calls.

Invariant: both sides play the same tasks and seeds with the same models, each unit from an empty
tree; the reference is the selected `r2v` arm alone. Counts are exact, so one run of each side is
enough. The environment's oracle is no model.
"""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

import pyarrow.compute as pc

from actors.totals import Totals
from benchmarks.finished_run import complete_stages
from benchmarks.harness import Mismatch, publish
from r2v_dist.episodes import Arm
from r2v_dist.evaluation.threshold_selection import grid
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.services import Services
from r2v_dist.pipeline.steps import router as router_stages
from r2v_dist.pipeline.steps.evaluation import sweep, test_seeds
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import open_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", type=Path, default=Path("runs/demo"), help="a finished run with a router"
    )
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    run, config = open_run(args.run)
    manifests = complete_stages(run)
    if "evaluate" not in manifests or config.router is None:
        raise Mismatch(f"{args.run}: not a finished run with a router; make one with `make demo`")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        context = Context(config, run, Services(config, run, stack), "evaluate", "tree", manifests)
        measure(context, scratch, args.tasks, args.seeds)


def measure(context: Context, scratch: Path, tasks: int, seeds: int) -> None:
    """Play the selected arm alone, then all arms; print the result."""
    config = context.config
    arm = context.deploy(router_stages.trained(context, router_stages.last_round(context.config)))
    thresholds = grid(context.rollouts("validate"), config.swept, config.evaluate.rates)
    selected = arm("r2v", context.result("validate", "selected")["r2v"])
    arms = (*sweep(arm, thresholds), selected)
    alone = play(context, (selected,), scratch / "one", tasks, seeds)
    together = play(context, arms, scratch / "all", tasks, seeds)
    states = {name: states_asked(scratch / "all", name) for name in thresholds}
    table = [
        ("arms", str(len(arms)), "1"),
        (
            "questions that reached a model",
            f"{together.engine_calls:,}",
            f"{alone.engine_calls:,}",
        ),
        ("the same without sharing", f"{together.asked:,}", f"{alone.engine_calls:,}"),
    ]
    for name, count in states.items():
        table.append((f"states at which {name} alone asks the SLM", f"{count:,}", ""))
    publish(
        "tree",
        "r2v alone",
        alone.engine_calls / together.engine_calls,
        table,
        states_by_router=json.dumps(states),
        routers=len(thresholds),
        thresholds=json.dumps({name: len(levels) for name, levels in thresholds.items()}),
        calls=together.engine_calls,
        reference_calls=alone.engine_calls,
        unshared_calls=together.asked,
        tasks=tasks,
        seeds=seeds,
    )


def play(context: Context, arms: tuple[Arm, ...], folder: Path, tasks: int, seeds: int) -> Totals:
    """Play the arms on the first test tasks and seeds."""
    units = []
    for task in context.tasks("test")[:tasks]:
        units += [context.unit(task, z, arms) for z in test_seeds(context)[:seeds]]
    return context.services.roll_out(units, folder, lambda *_: None)


def states_asked(folder: Path, router: str) -> int:
    """Different states at which the SLM was asked along the paths of one router, all its thresholds
    together.
    """
    table = rollout_store.read(folder, ["router", "task", "z", "prefix", "slm_tokens"])
    table = table.filter(
        pc.and_(
            pc.equal(table["router"].cast("string"), router),
            pc.greater(pc.fill_null(table["slm_tokens"], 0), 0),
        )
    )
    return int(table.group_by(["task", "z", "prefix"]).aggregate([]).num_rows)


if __name__ == "__main__":
    main()
