"""Runs of the command line in one process that kill or stop themselves at a chosen call: exactly
before or after a shard, a manifest or an epoch is there.
"""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.runs import ROOT

SMALL = [
    "configs/textworld_simulated.yaml",
    "router=null",
    "env.splits={train: 1, validation: 2, calibration: 0, test: 3}",
    "perturb={test_seeds: 10, validation_seeds: 10, train_seeds: 10}",
    "evaluate={rates: [0.3], routers: [random]}",
    "cluster={executor: inline, memory_gib: 0.5, shard_episodes: 8, shard_seconds: 1000, "
    "lease_s: 3600}",
]
_FAULTY = """
import os, runpy, sys, types

# The report, and the imports that it needs, would take most of the time.
no_report = types.SimpleNamespace(write_report=lambda *_: None, show_headline=lambda _: "")
sys.modules["r2v_dist.report.write"] = no_report
module, name, call, moment, number, *sys.argv[1:] = sys.argv[1:]
owner = __import__(module, fromlist=["_"])
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
honest = getattr(owner, last)
calls = 0

def faulty(*arguments, **named):
    global calls
    calls += 1
    if calls == int(call) and moment == "before":
        os.kill(os.getpid(), int(number))
    result = honest(*arguments, **named)
    if calls == int(call) and moment == "after":
        os.kill(os.getpid(), int(number))
    return result

setattr(owner, last, faulty)
runpy.run_module("r2v_dist.cli", run_name="__main__")
"""


@dataclass(frozen=True)
class Fault:
    """A signal that a run sends itself before or after the n-th call of a function."""

    module: str
    name: str
    call: int
    moment: Literal["before", "after"]
    signal: signal.Signals


NEVER = Fault("r2v_dist.storage.arrow_file", "save_new", 0, "before", signal.SIGKILL)


def start_faulty(fault: Fault, run_dir: Path) -> "subprocess.Popen[str]":
    """`r2v run` of the small configuration, without a report, with a fault."""
    where = [fault.module, fault.name, str(fault.call), fault.moment, str(fault.signal.value)]
    command = [sys.executable, "-c", _FAULTY, *where, "run", *SMALL, f"run_dir={run_dir}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_faulty(fault: Fault, run_dir: Path) -> tuple[int, list[str]]:
    """The exit code of such a run, and the lines that it complained."""
    process = start_faulty(fault, run_dir)
    _, errors = process.communicate(timeout=300)
    return process.returncode, [line for line in errors.splitlines() if line[:1] != "["]
