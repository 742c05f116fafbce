"""Kills everything that a run consists of, at random times and between its stages, and compares the
outcomes with those of a run that nobody disturbed.

Whole runs of the command line, with a simulated model: runner, collector, rank (of the router's
learner), driver, node, and second drivers on one run directory. Prints, as its last line, one JSON
object with what each target has come to; it fails where a row is lost, there twice or another.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.accounts import Outcomes, summary
from benchmarks.chaos.engines import Stormed, engine_storm, no_false_alarm, scorer_storm
from benchmarks.chaos.nodes import Nodes
from benchmarks.chaos.processes import Family
from benchmarks.chaos.tasks import bad_nodes, poison
from benchmarks.chaos.two_drivers import rivals
from benchmarks.chaos.whole_runs import Killer, driver_storm, kill_one, storm, undisturbed

SIMULATED = [
    "configs/textworld_simulated.yaml",
    "env.splits={train: 4, validation: 4, calibration: 3, test: 6}",
    "labels={rounds: 1, tasks: 4, validation_tasks: 4, states: 16, validation_states: 12, n: 2, "
    "n_unsure: 3}",
    "router={epsilon: 0.05, score: value, risk_steps: 60, policy_steps: 80}",
    "evaluate={rates: [0.1, 0.3], routers: [random, entropy, r2v]}",
    "cluster={memory_gib: 1, shard_seconds: 0.2, shard_episodes: 8, max_restarts: 100}",
]
REAL = [
    "configs/textworld_demo.yaml",
    "env.splits={train: 8, validation: 2, calibration: 0, test: 2}",
    "perturb={train_seeds: 10, validation_seeds: 10, test_seeds: 5}",
    "collect.perturbed_episodes=4",
    "bc={epochs: 4, save_every_steps: 2}",
    "branches={tasks: 4, validation_tasks: 2, seeds: 3, states: 16, validation_states: 8, n: 2, "
    "n_agreed: 1}",
    "dpo=null",
    "labels={rounds: 1, tasks: 4, validation_tasks: 2, states: 16, validation_states: 12, n: 2, "
    "n_unsure: 3}",
    "router={epsilon: 0.05, score: value, risk_steps: 60, policy_steps: 80}",
    "evaluate={rates: [0.25], routers: [entropy, r2v]}",
    "cluster={shard_seconds: 0.5, max_restarts: 100}",
]
"""With vLLM, behaviour cloning, a trained verifier and a router."""
SPREAD_S = {
    "runner": 2.0,
    "collector": 2.0,
    "engine": 2.0,
    "scorer": 2.0,
    "rank": 6.0,
    "driver": 30.0,
    "node": 5.0,
}
"""Longest time before the next kill."""


@dataclass(frozen=True)
class Chaos:
    """What every target is tried with."""

    kills: int
    seed: int
    folder: Path
    family: Family
    tasks: int
    seconds: float

    def calm(self) -> Outcomes:
        """The outcomes of the undisturbed run."""
        return undisturbed(SIMULATED, self.folder / "calm")

    def rng(self, target: str) -> random.Random:
        """The same for a target, whatever else is tried."""
        return random.Random(f"{self.seed} {target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default=",".join(TARGETS), help="which, in this order")
    parser.add_argument("--kills", type=int, default=20, help="of each target")
    parser.add_argument("--tasks", type=int, default=1000, help="of poison and bad_node")
    parser.add_argument("--seconds", type=float, default=600, help="of overload and cold start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keeps the runs; else they are deleted")
    args = parser.parse_args()
    targets = args.targets.split(",")
    if unknown := [name for name in targets if name not in TARGETS]:
        parser.error(f"--targets: {unknown[0]} is none of {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="r2v") as scratch:
        folder = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        chaos = Chaos(args.kills, args.seed, folder, Family(), args.tasks, args.seconds)
        found = {name: _timed(name, TARGETS[name], chaos) for name in targets}
    clean = all(one["outcomes_equal"] for one in found.values())
    print(json.dumps({"name": "chaos", "clean": clean, "load": os.getloadavg()[0], **found}))
    sys.exit(0 if clean else 1)


def _timed(name: str, target: Callable[[Chaos], dict[str, Any]], chaos: Chaos) -> dict[str, Any]:
    began = time.monotonic()
    found = target(chaos)
    left = chaos.family.left(30.0)
    found |= {"processes_left": left, "seconds": round(time.monotonic() - began)}
    print(f"{name}: {json.dumps(found)}", flush=True)
    return found


def of_workers(target: str) -> Callable[[Chaos], dict[str, Any]]:
    """Kills processes of a target in whole runs on a Ray of their own."""

    def kill(chaos: Chaos) -> dict[str, Any]:
        rng = chaos.rng(target)
        killer = Killer(target, kill_one(rng), rng, SPREAD_S[target], chaos.kills)
        accounts, runs = storm(
            target, [killer], SIMULATED, chaos.calm(), chaos.folder, chaos.family
        )
        return summary(killer.kills, accounts, runs)

    return kill


def drivers(chaos: Chaos) -> dict[str, Any]:
    """Kills drivers."""
    kills, accounts, runs = driver_storm(
        chaos.kills,
        chaos.rng("driver"),
        SIMULATED,
        chaos.calm(),
        chaos.folder,
        SPREAD_S["driver"],
    )
    return summary(kills, accounts, runs)


def nodes(chaos: Chaos) -> dict[str, Any]:
    """Kills raylets of a cluster of three, of which one is the driver's."""
    rng = chaos.rng("node")
    with Nodes(rng) as there:
        killer = Killer("node", there.kill_one, rng, SPREAD_S["node"], chaos.kills, "runner")
        arguments = [*SIMULATED, f"cluster.address={there.address}"]
        calm = chaos.calm()
        accounts, runs = storm("node", [killer], arguments, calm, chaos.folder, chaos.family)
    return summary(killer.kills, accounts, runs)


def real(chaos: Chaos) -> dict[str, Any]:
    """Kills vLLM engine, scorer and the ranks of all learners of one run with a tiny real model."""
    killers = []
    for target in ("engine", "scorer", "rank"):
        rng = chaos.rng(f"real {target}")
        killers.append(Killer(target, kill_one(rng), rng, 3 * SPREAD_S[target], chaos.kills))
    calm = undisturbed(REAL, chaos.folder / "calm-real")
    accounts, runs = storm("real", killers, REAL, calm, chaos.folder, chaos.family)
    each = {killer.target: summary(killer.kills, accounts, runs)["back_s"] for killer in killers}
    kills = [kill for killer in killers for kill in killer.kills]
    return summary(kills, accounts, runs, engines="vLLM", each_back_s=each)


def false_alarms(chaos: Chaos) -> dict[str, Any]:
    """Overloads an engine while another one takes its time to start."""
    found = no_false_alarm(chaos.seconds, chaos.folder)
    restarts = found["overload_restarts"] + found["cold_start_restarts"]
    return found | {"engines": "stand-ins", "outcomes_equal": restarts == 0}


def second_drivers(chaos: Chaos) -> dict[str, Any]:
    """Starts second drivers."""
    found = rivals(chaos.kills, chaos.rng("second"), SIMULATED, chaos.calm(), chaos.folder)
    counts = {"refused": found.refused, "superseded": found.superseded}
    return summary([], found.accounts, found.runs, **counts)


def of_parts(
    target: str, stormed: Callable[[Killer, Path, Family], Stormed]
) -> Callable[[Chaos], dict[str, Any]]:
    """Kills processes of a target beside stand-in engines."""

    def kill(chaos: Chaos) -> dict[str, Any]:
        rng = chaos.rng(target)
        killer = Killer(target, kill_one(rng), rng, SPREAD_S[target], chaos.kills)
        found = stormed(killer, chaos.folder, chaos.family)
        more = {"engines": "stand-ins", "others_undisturbed": found.others_undisturbed}
        return summary(killer.kills, found.accounts, found.stages, **more)

    return kill


TARGETS = {
    "runner": of_workers("runner"),
    "collector": of_workers("collector"),
    "engine": of_parts("engine", engine_storm),
    "scorer": of_parts("scorer", scorer_storm),
    "rank": of_workers("rank"),
    "driver": drivers,
    "second": second_drivers,
    "node": nodes,
    "real": real,
    "no_false_alarm": false_alarms,
    "poison": lambda chaos: poison(chaos.tasks, chaos.folder),
    "bad_node": lambda chaos: bad_nodes(chaos.tasks, chaos.folder),
}

if __name__ == "__main__":
    main()
