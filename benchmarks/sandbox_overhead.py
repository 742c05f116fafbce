"""What a sandbox costs a program: `Sandbox.run` with waiting interpreters against a bare
`subprocess.run` of the same program.

Both sides run the same trivial program, one at a time, and must return what it prints. The bare
side starts an isolated interpreter (`python -I`), as one must for code of unknown origin, and
contains nothing. Ours is measured twice: back to back, where the interpreter for a later program
starts while this one runs, and with a pause in which it can start, which is what a program meets
when models think in between.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.harness import same
from envs.sandbox import Sandbox, probe

PROGRAM = "print(sum(range(10)))"
PRINTED = b"45\n"


@dataclass(frozen=True)
class Overhead:
    """Medians over executions, in milliseconds."""

    bare_ms: float
    back_to_back_ms: float
    paused_ms: float
    overhead_back_to_back_ms: float
    """Median over neighbouring pairs of ours minus bare; negative where ours is faster, as its
    interpreter has started already.
    """
    overhead_paused_ms: float
    executions: int
    isolation: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=100, help="of each side")
    parser.add_argument(
        "--pause", type=float, default=0.2, help="seconds between executions of the paused side"
    )
    args = parser.parse_args()
    measured = asdict(overhead(args.executions, args.pause))
    print(
        json.dumps(
            {
                key: round(value, 2) if isinstance(value, float) else value
                for key, value in measured.items()
            }
        )
    )


def overhead(executions: int = 100, pause: float = 0.2) -> Overhead:
    """Measure on this machine. Raises Mismatch when a side does not print what the
    program prints.
    """
    with Sandbox(warm=2) as sandbox:

        def ours() -> bytes:
            return sandbox.run(PROGRAM).stdout

        # In blocks of ten, so that the sandboxes being started for later programs do not slow the
        # bare side.
        bare: list[float] = []
        busy: list[float] = []
        for _ in range(-(-executions // 10)):
            bare += _times(_bare, 10, before=0.0)
            busy += _times(ours, 10, before=0.0)
            time.sleep(pause)
        paused = _times(ours, executions, before=pause)
    return Overhead(
        bare_ms=statistics.median(bare),
        back_to_back_ms=statistics.median(busy),
        paused_ms=statistics.median(paused),
        overhead_back_to_back_ms=statistics.median(a - b for a, b in zip(busy, bare, strict=True)),
        overhead_paused_ms=statistics.median(paused) - statistics.median(bare),
        executions=executions,
        isolation=probe().detail,
    )


def _bare() -> bytes:
    return subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM], capture_output=True, check=True
    ).stdout


def _times(run: Callable[[], bytes], count: int, before: float) -> list[float]:
    """Milliseconds of each of `count` runs, after one that is not counted."""
    same("output", run(), PRINTED)
    taken = []
    for _ in range(count):
        time.sleep(before)
        start = time.perf_counter()
        printed = run()
        taken.append(1e3 * (time.perf_counter() - start))
        same("output", printed, PRINTED)
    return taken


if __name__ == "__main__":
    main()
