"""Runs of the command line in one process, watched: where each part of the work was done."""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter

from r2v_dist.storage import rollouts as rollout_store
from tests.runs import ROOT, SIMULATED, outcomes

INLINE = [*SIMULATED, "cluster.executor=inline"]
WATCHING = """
import os, runpy, sys, threading

met = set()

def watch(module, name):
    owner = __import__(module, fromlist=["_"])
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    honest = getattr(owner, last)

    def watched(*arguments, **named):
        met.add((name, os.getpid(), threading.current_thread() is threading.main_thread()))
        return honest(*arguments, **named)

    setattr(owner, last, watched)

watch("r2v_dist.agent.tree", "TreeEnv.step")
watch("r2v_dist.verifier.llm_judge", "judge_prompt")
watch("r2v_dist.storage.rollouts", "commit")
watch("learners.router.train", "calibrate")
sys.argv = ["r2v", *sys.argv[1:]]
try:
    runpy.run_module("r2v_dist.cli", run_name="__main__")
finally:
    assert {(pid, main) for _, pid, main in met} <= {(os.getpid(), True)}, met
    assert "ray" not in sys.modules
    print("met:", *sorted(name for name, *_ in met))
"""


def start(arguments: list[str], run_dir: Path) -> "subprocess.Popen[str]":
    """`r2v run` in a process that tells afterwards what it met, all in its main thread."""
    command = [sys.executable, "-c", WATCHING, "run", *arguments, f"run_dir={run_dir}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@dataclass(frozen=True)
class InterruptedRun:
    """`first_code`, `first_errors` and `committed` are of the try that was interrupted: its exit
    code, what it complained, and how many rows it left. `printed` is what the second try said.
    """

    run_dir: Path
    first_code: int
    first_errors: str
    committed: int
    printed: str


RECORD = TypeAdapter(InterruptedRun)


def shared_run(folder: Path) -> InterruptedRun:
    """The run in a folder, made by whoever asks first."""
    folder.mkdir(exist_ok=True)
    record = folder / "record.json"
    with FileLock(folder / "lock", timeout=1200):
        if not record.is_file():
            record.write_bytes(RECORD.dump_json(interrupt_and_finish(folder / "simulated")))
    return RECORD.validate_json(record.read_bytes())


def interrupt_and_finish(run_dir: Path) -> InterruptedRun:
    """Interrupt the simulated run once it has committed visits, and run it to its end."""
    first = start(INLINE, run_dir)
    deadline = time.monotonic() + 300
    while not rollout_store.shards(run_dir / "rollouts" / "visits"):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=60)
    committed = len(outcomes(run_dir))

    second = start(INLINE, run_dir)
    printed, said = second.communicate(timeout=800)
    assert second.returncode == 0, said
    return InterruptedRun(run_dir, first.returncode, errors, committed, printed)
