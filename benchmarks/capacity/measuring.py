"""Measures what the simulation is fed with, on this machine: `benchmarks.scaling`'s runners, games
and engine, by the processor time that each process takes.

Invariant: costs are processor time, which other work changes little; two lengths of episodes tell
what a unit costs from what a step costs.
"""

import contextlib
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray

from actors.dispatcher import roll_out
from actors.env_runner import RunnerSetup
from actors.routing import choose
from actors.runner_group import RunnerGroup
from actors.vllm.server_handle import ModelServer
from benchmarks import scaling
from benchmarks.capacity.costs import Costs, Measured, Point
from benchmarks.capacity.dispatcher import LoopCosts, measure_loop
from benchmarks.episodes import make_episodes
from benchmarks.games import MAX_STEPS, make_tasks
from benchmarks.harness import processor_s
from cluster.session import ray_session
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Task
from r2v_dist.storage import rollouts as rollout_store

CORES = 2
SHORT = 5
"""Steps of the shorter episodes."""
_ANSWER_S = 0.2
_CLUSTER = ClusterConfig(runners=2, in_flight=4)
_KINDS = {
    "ray::EnvRunner": "runner",
    "ray::EngineServer": "engine",
    "ray::Collector": "collector",
}


@dataclass(frozen=True)
class Spent:
    """Seconds of processor time by kind of process, and what was done with them."""

    seconds: dict[str, float]
    units: int
    steps: int

    def of(self, kind: str) -> float:
        """For one unit."""
        return self.seconds.get(kind, 0.0) / self.units


def measure(sizes: Sequence[int]) -> Measured:
    """All costs, and the rates of so many runners."""
    loop = measure_loop()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(ray_session(ClusterConfig(num_cpus=CORES), scratch / "logs"))
        tasks = make_tasks(4)
        with scaling.engines(1, _ANSWER_S, slots=100_000) as server:
            short = _spent(server, [_shortened(task) for task in tasks], 8, scratch / "short")
            whole = _spent(server, tasks, 3, scratch / "whole")
        wait = _wait_s()
        curve = _curve(sizes, tasks, scratch)
        stored = _store_costs(scratch / "store")
    costs = _costs(loop, short, whole, wait, stored)
    source = f"--measure on {CORES} cores of {platform.processor() or platform.machine()}"
    return Measured(source, costs, curve)


def _costs(
    loop: LoopCosts,
    short: Spent,
    whole: Spent,
    wait: float,
    stored: tuple[float, float, float],
) -> Costs:
    def step(kind: str) -> float:
        return max(0.0, (whole.of(kind) - short.of(kind)) / (MAX_STEPS - SHORT))

    def unit(kind: str) -> float:
        return max(0.0, whole.of(kind) - MAX_STEPS * step(kind))

    return Costs(
        driver_loop=loop.turn,
        driver_loop_runner=loop.runner,
        driver_loop_under_way=loop.under_way + wait,
        driver_unit=loop.report + unit("driver"),
        driver_unit_runner=loop.report_runner,
        runner_unit=unit("runner"),
        runner_step=step("runner"),
        runner_engine=_route_s(),
        engine_step=step("engine"),
        collector_unit=unit("collector"),
        collector_step=step("collector"),
        commit=stored[0],
        resume_episode=stored[1],
        shard_step_bytes=stored[2],
        machine_step=step("machine") + step("driver"),
    )


def _spent(server: ModelServer, tasks: Sequence[Task], rounds: int, folder: Path) -> Spent:
    """What the processes take for a roll-out from warm runners."""
    expert = ModelConfig(backend="expert")
    setup = RunnerSetup(
        server.config, expert, str(scaling.MODEL), "", PerturbConfig(), _CLUSTER.unit_timeout_s
    )
    runners = RunnerGroup(setup, server, None, _CLUSTER)
    places = _CLUSTER.runners * _CLUSTER.in_flight
    try:
        warm = scaling.units_of(tasks, places)
        roll_out(warm, folder.with_name(f"{folder.name}-warm"), runners, _CLUSTER, lambda *_: None)
        idle = _idle_rate()
        units = scaling.units_of(tasks, places * rounds)
        before = _by_kind()
        begun = time.perf_counter()
        totals = roll_out(units, folder, runners, _CLUSTER, lambda *_: None)
        seconds = time.perf_counter() - begun
        after = _by_kind()
    finally:
        runners.stop()
    spent = {
        kind: after[kind] - before.get(kind, 0.0) - seconds * idle.get(kind, 0.0) for kind in after
    }
    return Spent(spent, len(units), totals.steps)


def _idle_rate() -> dict[str, float]:
    """Processor time a second that processes take while nothing is asked of them."""
    before = _by_kind()
    time.sleep(4.0)
    after = _by_kind()
    return {kind: (after[kind] - before.get(kind, 0.0)) / 4.0 for kind in after}


def _by_kind() -> dict[str, float]:
    """Processor time of this process and all that it has started, by kind, so far."""
    sums = {"driver": time.process_time(), "machine": 0.0}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            name = " ".join(process.cmdline())
            kind = next((k for mark, k in _KINDS.items() if mark in name), "machine")
            sums[kind] = sums.get(kind, 0.0) + processor_s(process.pid)
    return sums


def _shortened(task: Task) -> Task:
    settings = dict(task.env_kwargs) | {"max_steps": SHORT}
    return replace(task, env_kwargs=tuple(settings.items()))


def _wait_s() -> float:
    """What asking Ray which units have finished costs, for one that is under way."""

    class Sleeper:
        def sleep(self) -> None:
            time.sleep(3600)

    sleeper: Any = ray.remote(Sleeper).options(num_cpus=0).remote()
    pending = [sleeper.sleep.remote() for _ in range(1000)]
    begun = time.process_time()
    for _ in range(10):
        # As `RunnerGroup.finished` does.
        ray.wait(pending, timeout=0)
        ray.wait(pending, num_returns=len(pending), timeout=0)
    seconds = time.process_time() - begun
    ray.kill(sleeper)
    return seconds / 10 / len(pending)


def _route_s() -> float:
    """What choosing an engine costs, for each engine."""
    count = 1000
    begun = time.process_time()
    for group in range(20):
        choose(group, [0] * count, [True] * count)
    return (time.process_time() - begun) / 20 / count


def _curve(sizes: Sequence[int], tasks: Sequence[Task], scratch: Path) -> tuple[Point, ...]:
    points = []
    with scaling.engines(1, 1.0, slots=100_000) as server:
        for size in sizes:
            cluster = ClusterConfig(runners=size, in_flight=4)
            rate = scaling.measure(server, tasks, cluster, 1, scratch)
            points.append(Point(size, 4, 1.0, MAX_STEPS, 1, CORES, rate.steps_per_s))
    return tuple(points)


def _store_costs(folder: Path) -> tuple[float, float, float]:
    """Writing a shard of 256 episodes, after a warm-up, reading the key of one episode, and the
    bytes of a step. The texts are as long as TextWorld's.
    """
    episodes = make_episodes(256)
    seconds = []
    for index in range(6):
        begun = time.process_time()
        rollout_store.commit(folder, index, episodes)
        seconds.append(time.process_time() - begun)
    begun = time.process_time()
    rollout_store.committed_keys(folder)
    read_s = time.process_time() - begun
    stored = sum(path.stat().st_size for path in folder.glob("*.arrow")) / 6
    steps = sum(len(episode.steps) for episode in episodes)
    return statistics.median(seconds[1:]), read_s / (6 * len(episodes)), stored / steps
