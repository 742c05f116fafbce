"""What the collectors take, and what a stage's episodes leave behind in the memory of driver and
collectors.

Env runners that play nothing (`benchmarks.stand_in_runner`) deliver made-up episodes through the
product's own path: dispatcher, Ray, collectors, shards on disk. Senders and collectors share the
machine, so the rate by the clock is what both do together; `per_core` is the rate of a collector
that has a core for itself. With `--inline` everything happens in this process, without Ray: the
memory is that of dispatcher and collector together, its units included. Invariant: every key of
every unit is in the store once, or there is no figure.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from actors.dispatcher import roll_out
from actors.env_runner import RunnerSetup
from actors.local_runners import LocalRunners
from actors.runner_group import RunnerGroup
from actors.totals import Totals
from benchmarks.episodes import STEPS
from benchmarks.harness import processor_s, publish, same
from benchmarks.stand_in_runner import StandInRunner
from cluster.session import ray_session
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.storage import rollouts as rollout_store

GOAL_STEPS_PER_S = 5000.0
GOAL_MB_PER_MILLION = 50.0
_SETTLED = 0.3
"""Share of the episodes after which memory counts: before, interpreters and caches fill."""


@dataclass
class Memory:
    """Resident memory of driver and collectors, in bytes, as episodes are committed."""

    collectors: Sequence[psutil.Process] = ()
    seen: list[tuple[int, int, int]] = field(default_factory=list)
    """Episodes, bytes of the driver, bytes of the collectors."""
    every_s: float = 0.5
    _next: float = 0.0

    def look(self, totals: Totals, _: int) -> None:
        """Note what is held now, now and then."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.every_s
        held = sum(process.memory_info().rss for process in self.collectors)
        self.seen.append((totals.episodes, psutil.Process().memory_info().rss, held))

    def slopes(self) -> tuple[float, float]:
        """MB per million episodes, of the driver and of the collectors."""
        settled = [row for row in self.seen if row[0] >= _SETTLED * self.seen[-1][0]]
        episodes, driver, collectors = np.array(settled, float).T
        fits = [np.polyfit(episodes, held, 1)[0] for held in (driver, collectors)]
        return float(fits[0]), float(fits[1])


@dataclass(frozen=True)
class Taken:
    """What one stage of stand-ins came to."""

    steps_per_s: float
    per_core: float
    """Steps for a second of a collector's processor time."""
    driver_ms: float
    """Processor time of the driver for a unit."""
    driver_slope: float
    """MB per million episodes."""
    collector_slope: float
    episodes: int
    units: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--arms", type=int, default=4, help="episodes of a unit")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of an episode, at most {STEPS}")
    parser.add_argument("--collectors", type=int, default=1)
    parser.add_argument("--runners", type=int, default=2)
    parser.add_argument("--inline", action="store_true", help="memory alone, without Ray")
    args = parser.parse_args()
    cluster = ClusterConfig(
        num_cpus=2, runners=args.runners, in_flight=16, collectors=args.collectors
    )
    if args.inline:
        grown_inline(args, cluster)
        return
    with tempfile.TemporaryDirectory() as scratch, ray_session(cluster, Path(scratch) / "logs"):
        units = units_of(args.tasks, args.seeds, args.arms, args.steps)
        taken = measure(units, cluster, Path(scratch))
    publish(
        "collector",
        f"{GOAL_STEPS_PER_S:,.0f} steps/s",
        taken.steps_per_s / GOAL_STEPS_PER_S,
        table_of(taken),
        **fields_of(taken),
        collectors=args.collectors,
    )


def units_of(tasks: int, seeds: int, arms: int, steps: int) -> list[Unit]:
    """Every task under every seed."""
    played = tuple(Arm("random", n / 100, "made-up", "expert", 0) for n in range(arms))
    named = [Task(f"made-up-{n}", "test", "", ()) for n in range(tasks)]
    return [Unit("evaluate", "0", task, z, steps, played) for z in range(seeds) for task in named]


def measure(units: Sequence[Unit], cluster: ClusterConfig, scratch: Path) -> Taken:
    """Play the units with warm runners and collectors."""
    runners = RunnerGroup(setup_of(cluster), None, None, cluster, runner=StandInRunner)
    try:
        warm = units_of(4 * cluster.collectors, 64, 4, STEPS)
        roll_out(warm, scratch / "warm", runners, cluster, lambda *_: None)
        memory = Memory(collectors_here())
        here = psutil.Process()
        driver_s = _cpu_s([here])
        collectors_s = _cpu_s(memory.collectors)
        begun = time.perf_counter()
        totals = roll_out(units, scratch / "made-up", runners, cluster, memory.look)
        seconds = time.perf_counter() - begun
        collectors_s = _cpu_s(memory.collectors) - collectors_s
        driver_s = _cpu_s([here]) - driver_s
    finally:
        runners.stop()
    wanted = sum(len(unit.arms) for unit in units)
    committed = rollout_store.read(scratch / "made-up", ["t"])["t"].to_numpy()
    same("episodes", (totals.episodes, int((committed <= 0).sum())), (wanted, wanted))
    same("keys", len(rollout_store.committed_keys(scratch / "made-up")), wanted)
    return Taken(
        totals.steps / seconds,
        totals.steps / collectors_s,
        1e3 * driver_s / len(units),
        *memory.slopes(),
        wanted,
        len(units),
    )


def grown_inline(args: argparse.Namespace, cluster: ClusterConfig) -> None:
    """What dispatcher and collector hold, in this process; print the result."""
    warm = units_of(4, 64, 4, STEPS)
    here = psutil.Process()
    memory = Memory(every_s=0.1)
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalRunners(setup_of(cluster), cluster.runners, StandInRunner) as runners,
    ):
        roll_out(warm, Path(scratch) / "warm", runners, cluster, lambda *_: None)
        before = here.memory_info().rss
        units = units_of(args.tasks, args.seeds, args.arms, args.steps)
        listed = here.memory_info().rss - before
        totals = roll_out(units, Path(scratch) / "made-up", runners, cluster, memory.look)
    slope, _ = memory.slopes()
    listed_slope = listed / totals.episodes
    table = [
        ("units: MB a million episodes", f"{listed_slope:.1f}", ""),
        ("dispatcher and collector: MB a million episodes", f"{slope:.1f}", ""),
        ("episodes", f"{totals.episodes:,}", ""),
    ]
    publish(
        "collector",
        f"{GOAL_MB_PER_MILLION:g} MB a million episodes",
        GOAL_MB_PER_MILLION / max(slope + listed_slope, 1e-9),
        table,
        inline_mb_per_million_episodes=slope,
        units_mb_per_million_episodes=listed_slope,
        stored_episodes=totals.episodes,
    )


def setup_of(cluster: ClusterConfig) -> RunnerSetup:
    """For runners that play nothing."""
    expert = ModelConfig(backend="expert")
    return RunnerSetup(expert, expert, "", "", PerturbConfig(), cluster.unit_timeout_s)


def collectors_here() -> list[psutil.Process]:
    """The collectors' processes of this machine that this process started."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if one.name().startswith("ray::Collector")]


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(processor_s(process.pid) for process in processes)


def table_of(taken: Taken) -> list[tuple[str, str, str]]:
    """The rows that are printed."""
    goal = f"{GOAL_MB_PER_MILLION:g}"
    return [
        ("collector: steps/s", f"{taken.steps_per_s:,.0f}", f"{GOAL_STEPS_PER_S:,.0f}"),
        ("collector: steps/s of its processor time", f"{taken.per_core:,.0f}", ""),
        ("driver: ms of processor time a unit", f"{taken.driver_ms:.2f}", ""),
        ("driver: MB a million episodes", f"{taken.driver_slope:.1f}", goal),
        ("collector: MB a million episodes", f"{taken.collector_slope:.1f}", goal),
        ("episodes", f"{taken.episodes:,}", ""),
    ]


def fields_of(taken: Taken) -> dict[str, float]:
    """What the last line says of it."""
    return {
        "collector_steps_per_s": taken.steps_per_s,
        "collector_steps_per_core_s": taken.per_core,
        "driver_ms_per_unit": taken.driver_ms,
        "driver_mb_per_million_episodes": taken.driver_slope,
        "collector_mb_per_million_episodes": taken.collector_slope,
        "stored_episodes": taken.episodes,
    }


if __name__ == "__main__":
    main()
