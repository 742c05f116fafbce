"""Kills everything that a run consists of, at random times and between its stages, and compares the
outcomes with those of a run that nobody disturbed.

Whole runs of the command line, with a simulated model: runner, collector, rank (of the router's
learner), driver, node, and second drivers on one run directory. Prints, as its last line, one JSON
object with what each target has come to; it fails where a row is lost, there twice or another.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.chaos.accounts import Outcomes, summary
from benchmarks.chaos.engines import Stormed, engine_storm, no_false_alarm, scorer_storm
from benchmarks.chaos.nodes import Nodes
from benchmarks.chaos.processes import Family
from benchmarks.chaos.tasks import bad_nodes, poison
from benchmarks.chaos.two_drivers import rivals
from benchmarks.chaos.whole_runs import (
    End,
    Killer,
    driver_storm,
    kill_one,
    storm,
    undisturbed,
)

PLAYS = [
    "configs/textworld_simulated.yaml",
    "router=null",
    "env.splits={train: 1, validation: 6, calibration: 0, test: 12}",
    "evaluate={rates: [0.1, 0.3], routers: [random, entropy]}",
    "cluster={memory_gib: 1, shard_seconds: 0.2, shard_episodes: 8, max_restarts: 100}",
]
"""Episodes only."""
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
WORKERS = ("runner", "collector", "rank")
CONFIGS = {"plays": PLAYS, "simulated": SIMULATED, "real": REAL}
SPREAD_S = {
    "runner": 2.0,
    "collector": 2.0,
    "engine": 2.0,
    "scorer": 2.0,
    "rank": 2.0,
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
    within: float

    def killer(self, target: str, kill: End | None = None, watched: str = "") -> Killer:
        """For this target, from now on."""
        rng = self.rng(target)
        until = time.monotonic() + self.within
        name = target.removeprefix("real ")
        kill = kill or kill_one(rng)
        return Killer(name, kill, rng, SPREAD_S[name], self.kills, watched, until=until)

    def calm(self, config: str = "plays") -> Outcomes:
        """The outcomes of an undisturbed run."""
        return undisturbed(CONFIGS[config], self.folder / f"calm-{config}")

    def rng(self, target: str) -> random.Random:
        """The same for a target, whatever else is tried."""
        return random.Random(f"{self.seed} {target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default=",".join(TARGETS), help="a+b: in the same runs")
    parser.add_argument("--kills", type=int, default=20, help="of each target")
    parser.add_argument("--tasks", type=int, default=1000, help="of poison and bad_node")
    parser.add_argument("--seconds", type=float, default=600, help="of overload and cold start")
    parser.add_argument(
        "--within",
        type=float,
        default=math.inf,
        help="seconds of each target, after which nothing more is killed",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keeps the runs; else they are deleted")
    args = parser.parse_args()
    targets = args.targets.split(",")
    for name in targets:
        if name not in TARGETS and not set(name.split("+")) <= set(WORKERS):
            parser.error(f"--targets: {name} is none of {', '.join(TARGETS)}")
    with tempfile.TemporaryDirectory(prefix="r2v") as scratch:
        folder = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        chaos = Chaos(
            args.kills, args.seed, folder, Family(), args.tasks, args.seconds, args.within
        )
        found = {
            name: _timed(name, TARGETS.get(name) or partial(workers, name), chaos)
            for name in targets
        }
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


def workers(name: str, chaos: Chaos) -> dict[str, Any]:
    """Kills processes of one or several targets in whole runs on a Ray of their own."""
    targets = name.split("+")
    config = "simulated" if "rank" in targets else "plays"
    calm = chaos.calm(config)
    killers = [chaos.killer(target) for target in targets]
    accounts, runs = storm(name, killers, CONFIGS[config], calm, chaos.folder, chaos.family)
    if len(killers) == 1:
        return summary(killers[0].kills, accounts, runs)
    each = {killer.target: summary(killer.kills, accounts, runs) for killer in killers}
    return {"outcomes_equal": accounts.clean, **each}


def drivers(chaos: Chaos) -> dict[str, Any]:
    """Kills drivers."""
    calm = chaos.calm()
    rng = chaos.rng("driver")
    until = time.monotonic() + chaos.within
    kills, accounts, runs = driver_storm(
        chaos.kills, rng, PLAYS, calm, chaos.folder, SPREAD_S["driver"], until
    )
    return summary(kills, accounts, runs)


def nodes(chaos: Chaos) -> dict[str, Any]:
    """Kills raylets of a cluster of three, of which one is the driver's."""
    calm = chaos.calm()
    with Nodes(chaos.rng("nodes")) as there:
        killer = chaos.killer("node", there.kill_one, "runner")
        arguments = [*PLAYS, f"cluster.address={there.address}"]
        accounts, runs = storm("node", [killer], arguments, calm, chaos.folder, chaos.family)
    return summary(killer.kills, accounts, runs)


def real(chaos: Chaos) -> dict[str, Any]:
    """Kills vLLM engine, scorer and the ranks of all learners of one run with a tiny real model."""
    calm = chaos.calm("real")
    killers = [chaos.killer(f"real {target}") for target in ("engine", "scorer", "rank")]
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
    calm = chaos.calm()
    rng = chaos.rng("second")
    until = time.monotonic() + chaos.within
    found = rivals(chaos.kills, rng, PLAYS, calm, chaos.folder, until)
    counts = {"refused": found.refused, "superseded": found.superseded}
    return summary([], found.accounts, found.runs, **counts)


def of_parts(
    target: str, stormed: Callable[[Killer, Path, Family], Stormed]
) -> Callable[[Chaos], dict[str, Any]]:
    """Kills processes of a target beside stand-in engines."""

    def kill(chaos: Chaos) -> dict[str, Any]:
        killer = chaos.killer(target)
        found = stormed(killer, chaos.folder, chaos.family)
        more = {"engines": "stand-ins", "others_undisturbed": found.others_undisturbed}
        return summary(killer.kills, found.accounts, found.stages, **more)

    return kill


TARGETS = {
    "engine": of_parts("engine", engine_storm),
    "scorer": of_parts("scorer", scorer_storm),
    "driver": drivers,
    "second": second_drivers,
    "node": nodes,
    "real": real,
    "no_false_alarm": false_alarms,
    "poison": lambda chaos: poison(chaos.tasks, chaos.folder),
    "bad_node": lambda chaos: bad_nodes(chaos.tasks, chaos.folder),
}
TARGETS |= {name: partial(workers, name) for name in WORKERS}

if __name__ == "__main__":
    main()
