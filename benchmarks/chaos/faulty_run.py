"""`r2v run` in a process that signals itself at chosen calls of a function: exactly before or after
a shard, a manifest or an epoch is there.

The report is left out: it, and the imports that it needs, would take most of a small run's time.
"""

import os
import runpy
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parent.parent.parent
EVERY = 0
"""As the number of a call: each."""


@dataclass(frozen=True)
class Fault:
    """A signal that a run sends itself before or after the n-th call of a function."""

    module: str
    name: str
    call: int
    moment: Literal["before", "after"]
    signal: signal.Signals


NEVER = Fault("r2v_dist.storage.arrow_file", "save_new", -1, "before", signal.SIGKILL)
BOUNDARIES = Fault("r2v_dist.storage.run_dir", "RunDir.complete", EVERY, "after", signal.SIGSTOP)
"""The run stands still between every two stages."""


def start_faulty(fault: Fault, arguments: Sequence[str], run_dir: Path) -> "subprocess.Popen[str]":
    """`r2v run` with a fault."""
    where = [fault.module, fault.name, str(fault.call), fault.moment, str(fault.signal.value)]
    command = [sys.executable, "-m", __name__, *where, "run", *arguments, f"run_dir={run_dir}"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def main() -> None:
    module, name, call, moment, number, *sys.argv[1:] = sys.argv[1:]
    no_report: Any = types.ModuleType("no_report")
    no_report.write_report = lambda *_: None
    no_report.show_headline = lambda _: ""
    sys.modules["r2v_dist.report.write"] = no_report
    _wrap(module, name, _faulty(int(call), moment, int(number)))
    runpy.run_module("r2v_dist.cli", run_name="__main__")


def _wrap(module: str, name: str, wrapper: Callable[[Any], Any]) -> None:
    owner = __import__(module, fromlist=["_"])
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, last, wrapper(getattr(owner, last)))


def _faulty(call: int, moment: str, number: int) -> Callable[[Any], Any]:
    """What makes a function send this process a signal."""

    def wrapper(honest: Any) -> Any:
        calls = 0

        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            due = call in (EVERY, calls)
            if due and moment == "before":
                os.kill(os.getpid(), number)
            result = honest(*arguments, **named)
            if due and moment == "after":
                os.kill(os.getpid(), number)
            return result

        return wrapped

    return wrapper


if __name__ == "__main__":
    main()
