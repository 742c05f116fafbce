"""Runs of the command line, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from r2v_dist.storage import rollouts as rollout_store

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "configs" / "textworld_demo.yaml"
SIMULATED = [
    "configs/textworld_simulated.yaml",
    "env.splits={train: 4, validation: 3, calibration: 3, test: 4}",
    "labels={tasks: 4, validation_tasks: 3, states: 24, validation_states: 16, n: 2, n_unsure: 3, "
    "pairs: 24}",
    "router={epsilon: 0.05, score: advantage, risk_steps: 60, policy_steps: 80}",
    "perturb.test_seeds=5",
    "evaluate.rates=[0.1, 0.3]",
    "cluster.shard_seconds=0.2",
    "cluster.shard_episodes=8",
]
REAL = [
    "configs/textworld_demo.yaml",
    "env.splits={train: 8, validation: 2, calibration: 2, test: 4}",
    "perturb={train_seeds: 10, validation_seeds: 10, test_seeds: 10}",
    "collect.perturbed_episodes=4",
    "bc.save_every_steps=2",
    "bc.epochs=4",
    "branches={tasks: 4, validation_tasks: 2, seeds: 3, states: 16, validation_states: 8, n: 2, "
    "n_agreed: 1}",
    "dpo.min_gap=0.02",
    "labels={tasks: 4, validation_tasks: 2, states: 20, validation_states: 12, n: 2, n_unsure: 3}",
    "router={epsilon: 0.05, score: value, risk_steps: 60, policy_steps: 80}",
    "evaluate={rates: [0.25], routers: [entropy, r2v]}",
    "cluster.shard_seconds=0.5",
]


def start(arguments: list[str], run_dir: Path) -> "subprocess.Popen[str]":
    """Start `r2v run`."""
    command = [sys.executable, "-m", "r2v_dist.cli", "run", *arguments, f"run_dir={run_dir}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(arguments: list[str], run_dir: Path, timeout: float) -> str:
    """Run to the end and return what was printed."""
    process = start(arguments, run_dir)
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors[-2000:]
    return output


def benchmark(name: str, arguments: list[str], timeout: float) -> dict[str, Any]:
    """Run a benchmark as a user does; its last line is one JSON object."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json_object(done.stdout.splitlines()[-1])


def json_object(line: str) -> dict[str, Any]:
    """A line that is one JSON object, without NaN, which JSON does not have."""
    found = json.loads(line, parse_constant=_no_number)
    assert isinstance(found, dict)
    return found


def _no_number(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def outcomes(run_dir: Path) -> list[tuple[str, bool]]:
    """Every (key, success) of a run, sorted."""
    rows: list[tuple[str, bool]] = []
    for folder in sorted((run_dir / "rollouts").iterdir()):
        table = rollout_store.outcomes(rollout_store.read(folder, ["key", "t", "success"]))
        rows += list(zip(table["key"].to_pylist(), table["success"].to_pylist(), strict=True))
    return sorted(rows)


def router_weights(run_dir: Path) -> list[bytes]:
    """Of every router that was trained, in the order of their names."""
    return [path.read_bytes() for path in sorted(run_dir.rglob("router.safetensors"))]
