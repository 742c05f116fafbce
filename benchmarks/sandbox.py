"""Verdicts per second on all 164 canonical HumanEval+ solutions, against `evalplus.evaluate`'s
checker with the same parallelism.

Both sides start with cached expected outputs and load the tasks within the measured time; on ours
two sandboxes a program in parallel wait already, as between any two verdicts. EvalPlus runs
programs without a sandbox. It must fail HumanEval/32 (its own known error) and pass all others; we
must pass all. `cpu_ratio` compares processor time (own process, workers and sandboxes), and is the
steadier one on a busy machine.

    R2V_DATA_DIR=... python -m benchmarks.sandbox --evalplus-python VENV/bin/python
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evalplus_side import evalplus_verdicts
from benchmarks.harness import Pairs, Spent, interleave, measure, median_wall, publish, same
from benchmarks.sandbox_overhead import Overhead, overhead
from envs.coding.judge import Judge
from envs.coding.tasks import load_task, task_ids
from envs.sandbox import Sandbox


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--evalplus-python", required=True, help="interpreter of an environment with evalplus 0.3.1"
    )
    parser.add_argument("--parallel", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=1, help="measured pairs after the warm-up")
    parser.add_argument(
        "--executions",
        type=int,
        default=100,
        help="of the trivial program, for the overhead of one execution",
    )
    args = parser.parse_args()
    pairs = measure_verdicts(args.evalplus_python, args.parallel, args.repeats)
    publish_verdicts(pairs, overhead(args.executions), args.parallel)


def measure_verdicts(python: str, parallel: int, repeats: int) -> Pairs:
    """Verdicts of both sides on every canonical solution."""
    names = task_ids("humaneval_plus")
    solutions = [(name, load_task("humaneval_plus", name).code) for name in names]
    with Sandbox(warm=2 * parallel) as sandbox, tempfile.TemporaryDirectory() as scratch:

        def ours() -> Spent:
            load_task.cache_clear()
            judge = Judge(sandbox)
            before = _cpu_s()
            spent = measure(lambda: judge_all(judge, names, parallel))
            return Spent(spent.wall_s, _cpu_s() - before)

        def reference() -> Spent:
            cache = Path(scratch)
            theirs = evalplus_verdicts(
                python, "humaneval_plus", solutions, parallel, cache, generous=True
            )
            failed = [name for name, good in zip(names, theirs.passed, strict=True) if not good]
            same("canonical solutions that evalplus fails", failed, ["HumanEval/32"])
            return Spent(theirs.seconds, theirs.cpu_s)

        return interleave(ours, reference, repeats)


def judge_all(judge: Judge, names: Sequence[str], parallel: int) -> None:
    """Our verdicts. Raises Mismatch unless every canonical solution passes."""
    tasks = [load_task("humaneval_plus", name) for name in names]
    verdicts = judge.verdicts([(task, task.code) for task in tasks], parallel)
    failed = [name for name, verdict in zip(names, verdicts, strict=True) if not verdict.passed]
    same("canonical solutions that we fail", failed, [])


def publish_verdicts(pairs: Pairs, cost: Overhead, parallel: int) -> None:
    """Print verdicts per second of both sides, and the overhead of one execution."""
    count = len(task_ids("humaneval_plus"))
    rate = count / median_wall(pairs.ours)
    reference_rate = count / median_wall(pairs.reference)
    table = [
        ("verdicts per second", f"{rate:.2f}", f"{reference_rate:.2f}"),
        ("one execution, ms", f"{cost.paused_ms:.1f}", f"{cost.bare_ms:.1f} (bare subprocess)"),
    ]
    publish(
        "sandbox",
        "evalplus 0.3.1",
        pairs.wall_ratio,
        table,
        cpu_ratio=pairs.cpu_ratio,
        cpu_s=pairs.ours[-1].cpu_s,
        reference_cpu_s=pairs.reference[-1].cpu_s,
        parallel=parallel,
        verdicts_per_s=rate,
        reference_verdicts_per_s=reference_rate,
        overhead_ms=cost.overhead_paused_ms,
    )


def _cpu_s() -> float:
    """Processor time of this process and of the sandboxes that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
