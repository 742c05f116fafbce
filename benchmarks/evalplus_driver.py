"""Runs inside a virtual environment that has evalplus 0.3.1 and nothing of this project: solutions
in, EvalPlus's verdicts out.

    evalplus_driver.py DATASET DATA_FILE PARALLEL MIN_TIME_LIMIT [sanitize] \\
        < solutions.jsonl > verdicts.jsonl

Each line in is {"task_id", "solution"}; each line out {"passed", "base", "plus"} in the same order,
and the last one {"seconds", "cpu_seconds"}: from reading the data to the last verdict, with ground
truth computed before (it is cached by EvalPlus). With `sanitize` a solution is a model's answer,
and EvalPlus's own sanitiser finds the program in it.
"""

import contextlib
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def main() -> None:
    dataset = sys.argv[1]
    data_file = sys.argv[2]
    parallel = int(sys.argv[3])
    limit = float(sys.argv[4])
    variable = "HUMANEVAL_OVERRIDE_PATH" if dataset == "humaneval" else "MBPP_OVERRIDE_PATH"
    os.environ[variable] = data_file
    rows = [json.loads(line) for line in sys.stdin]
    with contextlib.redirect_stdout(sys.stderr):
        if sys.argv[5:] == ["sanitize"]:
            sanitize_all(dataset, rows)
        results, seconds, cpu_seconds = check(dataset, rows, parallel, limit)
    for result in results:
        base = result["base"][0]
        plus = result["plus"][0]
        print(json.dumps({"passed": base == plus == "pass", "base": base, "plus": plus}))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}))


def sanitize_all(dataset: str, rows: list[dict[str, Any]]) -> None:
    """Replace each answer by the program that EvalPlus finds in it."""
    from evalplus import data
    from evalplus.sanitize import sanitize

    problems = data.get_human_eval_plus() if dataset == "humaneval" else data.get_mbpp_plus()
    for row in rows:
        row["solution"] = sanitize(row["solution"], problems[row["task_id"]]["entry_point"])


def check(
    dataset: str, rows: list[dict[str, Any]], parallel: int, limit: float
) -> tuple[list[Any], float, float]:
    """EvalPlus's results on the solutions, and the seconds and processor seconds that they took."""
    from evalplus import data, evaluate

    if dataset == "humaneval":
        load = data.get_human_eval_plus
        digest = data.get_human_eval_plus_hash()
        not_none = []
    else:
        load = data.get_mbpp_plus
        digest = data.get_mbpp_plus_hash()
        not_none = evaluate.MBPP_OUTPUT_NOT_NONE_TASKS
    evaluate.get_groundtruth(load(), digest, not_none)

    started = time.monotonic()
    cpu_before = sum(os.times()[:4])
    problems = load()
    expected = evaluate.get_groundtruth(problems, digest, not_none)
    with ProcessPoolExecutor(max_workers=parallel) as pool:
        futures = []
        for i, row in enumerate(rows):
            name = row["task_id"]
            futures.append(
                pool.submit(
                    evaluate.check_correctness,
                    dataset,
                    i,
                    problems[name],
                    row["solution"],
                    expected[name],
                    base_only=False,
                    fast_check=True,
                    identifier=None,
                    min_time_limit=limit,
                )
            )
        results = [future.result() for future in futures]
    seconds = time.monotonic() - started
    cpu_seconds = sum(os.times()[:4]) - cpu_before  # of the workers too, which have ended
    return results, seconds, cpu_seconds


if __name__ == "__main__":
    main()
