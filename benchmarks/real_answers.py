"""Answers of real models to HumanEval+ or MBPP+: how many can be used, and whether our verdict on
them is EvalPlus's.

    R2V_DATA_DIR=... python -m benchmarks.real_answers ANSWERS.jsonl.gz [--evalplus-python PY]

A line of the file is {"task_id", "answer"}, the text of one answer to one task. In place of the
file a run directory may stand: then these are the first answers of `--router` to the unperturbed
test tasks. An answer can be used when a program that defines the function is found in it. With
`--evalplus-python`, an interpreter of a virtual environment with evalplus 0.3.1, its own sanitiser
and checker get the same texts; every disagreement is printed by name, and the exit code is 1 where
it is neither for imports that we add and EvalPlus does not, nor for a program that is too slow
for EvalPlus's own limits, which are raised because they count by the clock. A model wrote them, so
they run there inside bubblewrap too, without network and with nothing to write to but a cache.
"""

import argparse
import gzip
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from benchmarks.evalplus_side import Theirs, evalplus_verdicts
from envs.coding.actions import clean
from envs.coding.benchmark_files import Dataset
from envs.coding.code_sandbox import Attempt, CodeSandbox, attempt
from envs.coding.statement import stated
from envs.coding.tasks import dataset_of, load_task
from r2v_dist.storage import rollouts as rollout_store

_KNOWN = "HumanEval/32"
"""evalplus 0.3.1 fails every solution of it."""


@dataclass(frozen=True)
class Judged:
    """One answer: what was found in it, and whether it passes all hidden tests."""

    task_id: str
    tried: Attempt
    passed: bool


def judged(rows: Sequence[dict[str, str]], parallel: int) -> list[Judged]:
    """Try every answer on the examples, and judge its program."""
    tried = []
    programs = []
    for row in rows:
        task = load_task(dataset_of(row["task_id"]), row["task_id"])
        text = clean(row["answer"])
        beginning = stated(task.prompt).beginning
        tried.append(attempt("{}", text, beginning, task.entry_point, task.visible))
        programs.append((task, tried[-1].program))
    verdicts = CodeSandbox.of("{}").judge.verdicts(programs, parallel)
    return [
        Judged(row["task_id"], one, verdict.passed)
        for row, one, verdict in zip(rows, tried, verdicts, strict=True)
    ]


def counted(found: Sequence[Judged]) -> dict[str, float]:
    """Shares of all answers."""
    count = Counter[str]()
    for one in found:
        count["usable"] += bool(one.tried.program)
        count["loads"] += one.tried.loads
        count["cut_off"] += one.tried.cut
        count["passes_examples"] += one.tried.done
        count["passes_all"] += one.passed
        count["passes_examples_only"] += one.tried.done and not one.passed
    return {name: round(number / len(found), 4) for name, number in count.items()}


def compared(
    rows: Sequence[dict[str, str]], found: Sequence[Judged], python: str, parallel: int, cache: Path
) -> dict[str, float]:
    """EvalPlus's verdicts on the same texts, and where they differ."""
    dataset: Dataset = dataset_of(rows[0]["task_id"])

    def evalplus(some: Sequence[dict[str, str]], generous: bool) -> Theirs:
        answers = [(row["task_id"], clean(row["answer"])) for row in some]
        return evalplus_verdicts(python, dataset, answers, parallel, cache, generous, sanitize=True)

    theirs = evalplus(rows, True)
    slow = [
        row
        for row, one, passed in zip(rows, found, theirs.passed, strict=True)
        if passed and not one.passed
    ]
    # Those that pass by EvalPlus's raised limits alone are no disagreement about answers.
    hasty = dict(
        zip((row["task_id"] for row in slow), evalplus(slow, False).passed if slow else (),
            strict=True)
    )  # fmt: skip
    count = Counter[str](differing_by_imports=0, differing_by_time=0, differing=0)
    for row, one, passed, said in zip(rows, found, theirs.passed, theirs.said, strict=True):
        if one.passed == passed:
            continue
        added = added_imports(row["answer"], one.tried.program)
        late = not hasty.get(one.task_id, True)
        if added or late:
            count["differing_by_imports" if added else "differing_by_time"] += 1
        elif one.task_id != _KNOWN:
            count["differing"] += 1
        why = f"{said}; we added {', '.join(added)}" if added else said
        why += "; too slow for its own limits" if late else ""
        print(f"{one.task_id}: ours {one.passed}, evalplus {passed} ({why})", flush=True)
    return {"evalplus_passes_all": round(sum(theirs.passed) / len(found), 4), **count}


def added_imports(answer: str, program: str) -> list[str]:
    """Imports of a program that its answer does not have; EvalPlus adds none."""
    lines = program.split("\n")
    return [line for line in lines if line.startswith(("import ", "from ")) and line not in answer]


def read(path: Path, router: str) -> list[dict[str, str]]:
    """The rows of a file of JSON lines, gzipped or plain, or those of a run."""
    if path.is_dir():
        return first_answers(path, router)
    data = path.read_bytes()
    text = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    return [json.loads(line) for line in text.decode("utf-8").split("\n") if line.strip()]


def first_answers(run_dir: Path, router: str) -> list[dict[str, str]]:
    """What a router's actor said first on each test task when nothing was perturbed."""
    columns = ["task", "z", "t", "router", "action"]
    table = rollout_store.read(run_dir / "rollouts" / "evaluate", columns)
    rows = table.filter(pc.and_(pc.is_null(table["z"]), pc.equal(table["t"], 0))).to_pylist()
    answers = {row["task"]: row["action"] for row in rows if row["router"] == router}
    return [{"task_id": task, "answer": answers[task]} for task in sorted(answers)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--router", default="teacher_only", help="whose answers, of a run")
    parser.add_argument("--evalplus-python", help="interpreter that has evalplus 0.3.1")
    parser.add_argument("--parallel", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/r2v/agreement"))
    args = parser.parse_args()
    rows = read(args.answers, args.router)
    found = judged(rows, args.parallel)
    result = {"name": "real_answers", "answers": len(rows), **counted(found)}
    if args.evalplus_python:
        cache = args.cache.expanduser()
        cache.mkdir(parents=True, exist_ok=True)
        result |= compared(rows, found, args.evalplus_python, args.parallel, cache)
    print(json.dumps(result))
    sys.exit(bool(result.get("differing", 0)))


if __name__ == "__main__":
    main()
