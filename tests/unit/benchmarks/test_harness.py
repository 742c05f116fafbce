"""Times are read finely enough for the shortest block that is compared."""

import subprocess
import sys

import psutil
import pytest

from benchmarks.harness import processor_s

TICK_S = 0.01
"""The kernel's tick, in which psutil counts."""


def test_a_childs_time_is_counted_below_a_tick() -> None:
    steps = "print(flush=True)", "input()", "sum(range(20_000))", "print(flush=True)", "input()"
    program = [sys.executable, "-c", "; ".join(steps)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before = processor_s(child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        after = processor_s(child.pid)
        counted = psutil.Process(child.pid).cpu_times()
        child.stdin.write(b"\n")
        child.stdin.close()
    assert 0.0 < after - before < TICK_S
    assert after == pytest.approx(counted.user + counted.system, abs=2.5 * TICK_S)


def test_a_process_that_is_gone_is_an_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    with pytest.raises(OSError, match="Invalid argument"):
        processor_s(child.pid)
