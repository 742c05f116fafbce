"""Agreement of our verdicts with EvalPlus's: mutated and canonical solutions of HumanEval+ and
MBPP+ through both, and every disagreement by name.

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
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from benchmarks.evalplus_side import evalplus_verdicts
from envs.coding.benchmark_files import Dataset
from envs.coding.judge import Judge
from envs.coding.mutants import mutants
from envs.coding.tasks import load_task, task_ids
from envs.sandbox import Sandbox
from r2v_dist.seeding import short_hash

_KNOWN = "HumanEval/32"
_BATCH = 64
_AGAIN = "; alone and with more time and memory: "


@dataclass(frozen=True)
class Case:
    """A program, and how it was changed."""

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
    """The canonical solution and `per_task` mutants of each task."""
    programs = []
    for name in task_ids(dataset):
        code = load_task(dataset, name).code
        programs.append(Case(dataset, name, "canonical", code))
        for mutant in islice(mutants(code, 0), per_task):
            programs.append(Case(dataset, name, mutant.operator, mutant.code))
    return programs


def judge_batch(
    batch: list[Case], judge: Judge, python: str, parallel: int, cache: Path
) -> list[Outcome]:
    """Both sides' verdicts, ours first."""
    dataset = batch[0].dataset
    started = time.monotonic()
    submissions = [(load_task(case.dataset, case.task_id), case.code) for case in batch]
    ours = judge.verdicts(submissions, parallel)
    seconds = time.monotonic() - started
    programs = [(case.task_id, case.code) for case in batch]
    theirs = evalplus_verdicts(python, dataset, programs, parallel, cache)
    differing = [i for i, verdict in enumerate(ours) if verdict.passed != theirs.passed[i]]
    if differing:
        again = evalplus_verdicts(
            python, dataset, [programs[i] for i in differing], 1, cache, generous=True
        )
        for i, passed, said in zip(differing, again.passed, again.said, strict=True):
            theirs.said[i] += _AGAIN + said
            theirs.passed[i] = passed
    _report(f"{len(batch)} programs: ours {seconds:.0f} s, evalplus {theirs.seconds:.0f} s")
    outcomes = []
    for verdict, passed, said in zip(ours, theirs.passed, theirs.said, strict=True):
        our_reason = f"{verdict.reason or 'passed'} at test {verdict.failed_test}"
        why = f"ours: {our_reason}; evalplus: {said}"
        outcomes.append(Outcome(verdict.passed, passed, why))
    return outcomes


def kept_outcomes(
    batch: list[Case], judge: Judge, python: str, parallel: int, cache: Path
) -> list[Outcome]:
    """The outcomes of a batch, from the cache where an earlier run judged it."""
    path = cache / "outcomes" / f"{short_hash(batch)}.json"
    if not path.is_file():
        outcomes = judge_batch(batch, judge, python, parallel, cache)
        rows = [[outcome.ours, outcome.theirs, outcome.why] for outcome in outcomes]
        path.write_text(json.dumps(rows), encoding="utf-8")
    return [Outcome(*row) for row in json.loads(path.read_text(encoding="utf-8"))]


@dataclass
class Totals:
    """Counts of programs over all batches; `unexplained` describes the unknown disagreements."""

    programs: int = 0
    failing: int = 0
    agreed: int = 0
    asked_again: int = 0
    unexplained: list[str] = field(default_factory=list)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Count one program; print a disagreement."""
        self.programs += 1
        self.failing += not outcome.ours
        self.asked_again += _AGAIN in outcome.why
        if outcome.ours == outcome.theirs:
            self.agreed += 1
            return
        line = f"{case.task_id} ({case.change}): {outcome.why}"
        print(line, flush=True)
        if case.task_id != _KNOWN:
            self.unexplained.append(line)


def compare(
    datasets: list[Dataset], mutants_per_task: int, python: str, parallel: int, cache: Path
) -> Totals:
    """Judge every program of the datasets by both."""
    totals = Totals()
    with Sandbox(warm=parallel) as sandbox:
        judge = Judge(sandbox)
        for dataset in datasets:
            programs = cases(dataset, mutants_per_task)
            for start in range(0, len(programs), _BATCH):
                batch = programs[start : start + _BATCH]
                outcomes = kept_outcomes(batch, judge, python, parallel, cache)
                for case, outcome in zip(batch, outcomes, strict=True):
                    totals.add(case, outcome)
                _report(f"{dataset}: {start + len(batch)} of {len(programs)}")
    return totals


def _report(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


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
    (cache / "outcomes").mkdir(parents=True, exist_ok=True)
    totals = compare(args.datasets, args.mutants, args.evalplus_python, args.parallel, cache)
    counts = asdict(totals) | {"unexplained": len(totals.unexplained)}
    print(json.dumps({"name": "code_agreement", **counts}))
    sys.exit(bool(totals.unexplained))


if __name__ == "__main__":
    main()
