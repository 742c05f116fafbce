"""Whether our verdicts are EvalPlus's: mutated and canonical solutions of HumanEval+ and MBPP+
through both, every disagreement by name.

    R2V_DATA_DIR=... python -m benchmarks.code_agreement --evalplus-python VENV/bin/python
    --datasets humaneval_plus --mutants 4

Where the two differ, EvalPlus is asked again, with one program at a time and more time and memory:
its time limits are by the clock, and its memory limit counts its own process, so right programs can
fail. Verdicts are kept in `--cache`, so that a run that was stopped continues where it was. Exits
with 1 on a disagreement other than the known one: evalplus 0.3.1 fails every solution of
HumanEval/32.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.evalplus_side import evalplus_verdicts
from envs.coding.mutants import mutants
from envs.coding.tasks import Dataset, load_task, task_ids
from envs.coding.verdict import Judge
from envs.sandbox import Sandbox
from r2v_dist.seeding import short_hash

_KNOWN = "HumanEval/32"
_BATCH = 64
_AGAIN = "; alone and with more time and memory: "


@dataclass(frozen=True)
class Case:
    """A program, and what was changed in it."""

    dataset: Dataset
    task_id: str
    change: str
    code: str


@dataclass(frozen=True)
class Outcome:
    """Both verdicts on a program."""

    ours: bool
    theirs: bool
    why: str


def cases(dataset: Dataset, per_task: int) -> list[Case]:
    """Of each task the canonical solution and `per_task` mutants."""
    found = []
    for name in task_ids(dataset):
        code = load_task(dataset, name).code
        found.append(Case(dataset, name, "canonical", code))
        found += [
            Case(dataset, name, mutant.operator, mutant.code)
            for mutant in islice(mutants(code, 0), per_task)
        ]
    return found


def judge_batch(
    batch: list[Case], judge: Judge, python: str, parallel: int, cache: Path
) -> list[Outcome]:
    """Both sides' verdicts, ours first."""
    started = time.monotonic()
    ours = judge.verdicts(
        [(load_task(case.dataset, case.task_id), case.code) for case in batch], parallel
    )
    took = time.monotonic() - started
    programs = [(case.task_id, case.code) for case in batch]
    theirs = evalplus_verdicts(python, batch[0].dataset, programs, parallel, cache)
    differ = [
        i
        for i, (mine, passed) in enumerate(zip(ours, theirs.passed, strict=True))
        if mine.passed != passed
    ]
    if differ:
        again = evalplus_verdicts(
            python, batch[0].dataset, [programs[i] for i in differ], 1, cache, generous=True
        )
        for i, passed, said in zip(differ, again.passed, again.said, strict=True):
            theirs.said[i] += _AGAIN + said
            theirs.passed[i] = passed
    print(
        f"{len(batch)} programs: ours {took:.0f} s, evalplus {theirs.seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return [
        Outcome(
            mine.passed,
            passed,
            f"ours: {mine.reason or 'passed'} at test {mine.failed_test}; evalplus: {said}",
        )
        for mine, passed, said in zip(ours, theirs.passed, theirs.said, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--evalplus-python", required=True, help="interpreter of an environment with evalplus 0.3.1"
    )
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=["humaneval_plus", "mbpp_plus"],
        choices=["humaneval_plus", "mbpp_plus"],
    )
    parser.add_argument("--mutants", type=int, default=4, help="of each task")
    parser.add_argument("--parallel", type=int, default=os.cpu_count())
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/r2v/agreement"))
    args = parser.parse_args()
    cache = args.cache.expanduser()
    kept = cache / "outcomes"
    kept.mkdir(parents=True, exist_ok=True)

    tested = agreed = failing = again = 0
    unexplained = list[str]()
    with Sandbox(warm=args.parallel) as sandbox:
        judge = Judge(sandbox)
        for dataset in args.datasets:
            everything = cases(dataset, args.mutants)
            for start in range(0, len(everything), _BATCH):
                batch = everything[start : start + _BATCH]
                path = kept / f"{short_hash(batch)}.json"
                if not path.is_file():
                    outcomes = judge_batch(batch, judge, args.evalplus_python, args.parallel, cache)
                    path.write_text(
                        json.dumps([[o.ours, o.theirs, o.why] for o in outcomes]), encoding="utf-8"
                    )
                for case, outcome in zip(
                    batch,
                    (Outcome(*row) for row in json.loads(path.read_text(encoding="utf-8"))),
                    strict=True,
                ):
                    tested = tested + 1
                    agreed = agreed + (outcome.ours == outcome.theirs)
                    failing = failing + (not outcome.ours)
                    again += _AGAIN in outcome.why
                    if outcome.ours != outcome.theirs:
                        line = f"{case.task_id} ({case.change}): {outcome.why}"
                        print(line, flush=True)
                        unexplained += [] if case.task_id == _KNOWN else [line]
                print(
                    f"{dataset}: {min(start + _BATCH, len(everything))} of {len(everything)}",
                    file=sys.stderr,
                    flush=True,
                )
    counts = {
        "programs": tested,
        "failing": failing,
        "agreed": agreed,
        "asked_again": again,
        "unexplained": len(unexplained),
    }
    print(json.dumps({"name": "code_agreement", **counts}))
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    main()
