"""Small runs in one process that kill or stop themselves at a chosen call."""

import subprocess
from pathlib import Path

from benchmarks.chaos import faulty_run
from benchmarks.chaos.faulty_run import Fault

SMALL = [
    "configs/textworld_simulated.yaml",
    "router=null",
    "env.splits={train: 1, validation: 2, calibration: 0, test: 3}",
    "perturb={test_seeds: 10, validation_seeds: 10, train_seeds: 10}",
    "evaluate={rates: [0.3], routers: [random]}",
    "cluster={executor: inline, memory_gib: 0.5, shard_episodes: 8, shard_seconds: 1000, "
    "lease_s: 3600}",
]


def start_faulty(fault: Fault, run_dir: Path) -> "subprocess.Popen[str]":
    """`r2v run` of the small configuration, without a report, with a fault."""
    return faulty_run.start_faulty(fault, SMALL, run_dir)


def run_faulty(fault: Fault, run_dir: Path) -> tuple[int, list[str]]:
    """The exit code of such a run, and the lines that it complained."""
    process = start_faulty(fault, run_dir)
    _, errors = process.communicate(timeout=300)
    return process.returncode, [line for line in errors.splitlines() if line[:1] != "["]
