"""Runs inside a virtual environment that has evalplus 0.3.1 and nothing of this project: solutions
in, EvalPlus's verdicts out.

    evalplus_driver.py DATASET DATA_FILE PARALLEL MIN_TIME_LIMIT < solutions.jsonl > verdicts.jsonl

Each line in is {"task_id", "solution"}; each line out {"passed", "base", "plus"} in the same order,
and the last one {"seconds", "cpu_seconds"}: from reading the data to the last verdict, with ground
truth computed before (it is cached by EvalPlus).
"""

import contextlib
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor


def main() -> None:
    dataset = sys.argv[1]
    data_file = sys.argv[2]
    parallel = int(sys.argv[3])
    limit = float(sys.argv[4])
    os.environ["HUMANEVAL_OVERRIDE_PATH" if dataset == "humaneval" else "MBPP_OVERRIDE_PATH"] = (
        data_file
    )
    rows = [json.loads(line) for line in sys.stdin]
    with contextlib.redirect_stdout(sys.stderr):
        from evalplus import evaluate as plus
        from evalplus.data import (
            get_human_eval_plus,
            get_human_eval_plus_hash,
            get_mbpp_plus,
            get_mbpp_plus_hash,
        )

        load = get_human_eval_plus if dataset == "humaneval" else get_mbpp_plus
        digest = (get_human_eval_plus_hash if dataset == "humaneval" else get_mbpp_plus_hash)()
        not_none = [] if dataset == "humaneval" else plus.MBPP_OUTPUT_NOT_NONE_TASKS
        plus.get_groundtruth(load(), digest, not_none)

        started = time.monotonic()
        cpu = sum(os.times()[:4])
        problems = load()
        expected = plus.get_groundtruth(problems, digest, not_none)
        with ProcessPoolExecutor(max_workers=parallel) as pool:
            futures = [
                pool.submit(
                    plus.check_correctness,
                    dataset,
                    i,
                    problems[name],
                    row["solution"],
                    expected[name],
                    False,
                    True,
                    None,
                    limit,
                )
                for i, row in enumerate(rows)
                for name in [row["task_id"]]
            ]
            results = [future.result() for future in futures]
        seconds, cpu = (
            time.monotonic() - started,
            sum(os.times()[:4]) - cpu,
        )  # of the workers too, which have ended
    for result in results:
        base = result["base"][0]
        plus_ = result["plus"][0]
        print(json.dumps({"passed": base == plus_ == "pass", "base": base, "plus": plus_}))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu}))


if __name__ == "__main__":
    main()
