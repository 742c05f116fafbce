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
    names = [path.parent.name for path in (run.root / "stages").glob("*/manifest.json")]
    manifests = {name: manifest for name in names if (manifest := run.manifest(name)) is not None}
    if "evaluate" not in manifests or config.router is None:
        raise Mismatch(f"{args.run}: not a finished run with a router; make one with `make demo`")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        context = Context(config, run, Services(config, run, stack), "evaluate", "tree", manifests)
        arm = context.deploy(router_stages.trained(context, router_stages.last_round(context)))
        thresholds = grid(context.rollouts("validate"), config.swept, config.evaluate.rates)
        selected = arm("r2v", context.result("validate", "selected")["r2v"])
        swept = sweep(arm, thresholds)

        def calls(arms: tuple[Arm, ...], folder: str) -> tuple[int, int]:
            units = [
                context.unit(task, z, arms)
                for task in context.tasks("test")[: args.tasks]
                for z in test_seeds(context)[: args.seeds]
            ]
            totals = context.services.roll_out(units, scratch / folder, lambda *_: None)
            return totals.engine_calls, totals.asked

        one, _ = calls((selected,), "one")
        every, unshared = calls((*swept, selected), "all")
        own = {name: states_asked(scratch / "all", name) for name in thresholds}
    publish(
        "tree",
        "r2v alone",
        one / every,
        [
            ("arms", str(len(swept) + 1), "1"),
            ("questions that reached a model", f"{every:,}", f"{one:,}"),
            ("the same without sharing", f"{unshared:,}", f"{one:,}"),
            *(
                (f"states at which {name} alone asks the SLM", f"{count:,}", "")
                for name, count in own.items()
            ),
        ],
        states_by_router=json.dumps(own),
        routers=len(thresholds),
        thresholds=json.dumps({name: len(levels) for name, levels in thresholds.items()}),
        calls=every,
        reference_calls=one,
        unshared_calls=unshared,
        tasks=args.tasks,
        seeds=args.seeds,
    )


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
