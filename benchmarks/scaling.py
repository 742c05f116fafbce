"""Steps per second with more runners, and with two engines instead of one.

The engines sleep (`benchmarks.sleeping_engine`), so what is measured is everything else:
dispatcher, runners with real games, routing, engine actors and the collector. With runners, every
answer takes `--latency` seconds and an engine has room for all, so the ideal is as many times one
runner's rate. With engines, each has `--slots` places and there is more work than both can do, so
the ideal is 2. The store's part is that of `benchmarks.collector`: runners that play nothing
deliver the episodes of `--stored-tasks` x `--stored-seeds` units; memory a million episodes is
extrapolated from them. Invariant: every side plays units of its own, all of the same length, to the
last commit.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil

from actors.dispatcher import roll_out
from actors.env_runner import RunnerSetup
from actors.language_models.tokenizer import load_tokenizer
from actors.runner_group import RunnerGroup
from actors.vllm.server_handle import ModelServer
from benchmarks import collector
from benchmarks.episodes import STEPS
from benchmarks.games import MAX_STEPS, make_tasks, make_units
from benchmarks.harness import publish, same
from benchmarks.sleeping_engine import SleepingEngine
from cluster.session import ray_session
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.storage.checkpoints import Checkpoint

MODEL = Path(__file__).parent.parent / "models" / "textworld-tiny"
ARM = Arm("slm_only", None, "sleeping", "expert", 0)
_SEEDS = count()


@dataclass(frozen=True)
class Rate:
    """Steps per second of some runners, restarts of engines meanwhile, and the largest runner's
    share of memory in MiB.
    """

    steps_per_s: float
    restarts: int
    runner_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runners", default="1,2,4,8,16,32", help="numbers of runners; 1 is first")
    parser.add_argument("--latency", type=float, default=1.0, help="seconds of an answer")
    parser.add_argument("--in-flight", type=int, default=4, help="units at once on a runner")
    parser.add_argument("--rounds", type=int, default=1, help="units of every place, in turn")
    parser.add_argument("--slots", type=int, default=8, help="requests at once in an engine")
    parser.add_argument("--stored-tasks", type=int, default=100)
    parser.add_argument("--stored-seeds", type=int, default=100)
    parser.add_argument("--stored-arms", type=int, default=4, help="episodes of a unit")
    args = parser.parse_args()
    sizes = [int(size) for size in args.runners.split(",")]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(ray_session(ClusterConfig(num_cpus=2), scratch / "logs"))
        tasks = make_tasks(4)
        rates = {}
        with engines(1, args.latency, slots=100_000) as server:
            for size in sizes:
                cluster = ClusterConfig(runners=size, in_flight=args.in_flight)
                rates[size] = measure(server, tasks, cluster, args.rounds, scratch)
                tell(f"{size} runners", rates[size])
        by_engines = {}
        # More units than two engines take, so that both are always full.
        cluster = ClusterConfig(runners=4, in_flight=args.slots)
        for replicas in (1, 2):
            with engines(replicas, args.latency / 4, args.slots) as server:
                by_engines[replicas] = measure(server, tasks, cluster, args.rounds, scratch)
                tell(f"{replicas} engines", by_engines[replicas])
        units = collector.units_of(args.stored_tasks, args.stored_seeds, args.stored_arms, STEPS)
        cluster = ClusterConfig(runners=2, in_flight=16)
        stored = collector.measure(units, cluster, scratch)
    report(rates, by_engines, stored)


@contextlib.contextmanager
def engines(replicas: int, latency_s: float, slots: int) -> Iterator[ModelServer]:
    """Engines that sleep, at work."""
    tokenizer = load_tokenizer(str(MODEL))
    [look] = tokenizer.encode("look", add_special_tokens=False)[:1]
    config = ModelConfig(
        backend="vllm", model=str(MODEL), replicas=replicas, max_num_seqs=slots, max_model_len=4096
    )
    behaviour = Checkpoint(f"answer_s={latency_s}&token={look}", ARM.policy)
    server = ModelServer("slm", config, behaviour, ClusterConfig(), SleepingEngine)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def measure(
    server: ModelServer,
    tasks: Sequence[Task],
    cluster: ClusterConfig,
    rounds: int,
    scratch: Path,
) -> Rate:
    """Play as many units as fill every runner `rounds` times, with warm runners."""
    expert = ModelConfig(backend="expert")
    setup = RunnerSetup(
        server.config, expert, str(MODEL), "", PerturbConfig(), cluster.unit_timeout_s
    )
    runners = RunnerGroup(setup, server, None, cluster)
    places = cluster.runners * cluster.in_flight
    try:
        _play(units_of(tasks, places), runners, cluster, scratch)
        units = units_of(tasks, places * rounds)
        begun = time.perf_counter()
        steps = _play(units, runners, cluster, scratch)
        seconds = time.perf_counter() - begun
        same("steps", steps, len(units) * MAX_STEPS)
        return Rate(steps / seconds, server.restarts, _runner_mib())
    finally:
        runners.stop()


def units_of(tasks: Sequence[Task], least: int) -> list[Unit]:
    """At least so many units that nobody has played."""
    seeds = [next(_SEEDS) for _ in range(-(-least // len(tasks)))]
    return make_units(tasks, seeds, ARM)


def _play(
    units: Sequence[Unit], runners: RunnerGroup, cluster: ClusterConfig, scratch: Path
) -> int:
    folder = scratch / f"{next(_SEEDS)}"
    return roll_out(units, folder, runners, cluster, lambda *_: None).steps


def _runner_mib() -> float:
    """Proportional set size of the largest runner of this machine."""
    sizes = [0.0]
    for process in psutil.process_iter(["name"]):
        if (process.info["name"] or "").startswith("ray::EnvRunner"):
            with contextlib.suppress(psutil.Error):
                sizes.append(process.memory_full_info().pss / 2**20)
    return max(sizes)


def tell(what: str, rate: Rate) -> None:
    """Say how far the measurement is."""
    print(f"{what}: {rate.steps_per_s:.1f} steps/s", file=sys.stderr, flush=True)


def report(rates: dict[int, Rate], by_engines: dict[int, Rate], stored: collector.Taken) -> None:
    """Print the result."""
    first, *_ = rates
    largest = max(rates)
    one = rates[first].steps_per_s / first
    table = []
    for size, rate in rates.items():
        share = rate.steps_per_s / (size * one)
        table.append((f"{size} runners: steps/s", f"{rate.steps_per_s:,.1f}", f"{share:.2f}"))
    for replicas, rate in by_engines.items():
        quotient = rate.steps_per_s / by_engines[1].steps_per_s
        row = (f"{replicas} engines: steps/s", f"{rate.steps_per_s:,.1f}", f"{quotient:.2f}")
        table.append(row)
    table += collector.table_of(stored)
    publish(
        "scaling",
        f"{first} runner, as many times",
        rates[largest].steps_per_s / (largest * one),
        table,
        steps_per_s={str(size): round(rate.steps_per_s, 1) for size, rate in rates.items()},
        engines_ratio=by_engines[2].steps_per_s / by_engines[1].steps_per_s,
        runner_mib=max(rate.runner_mib for rate in rates.values()),
        **collector.fields_of(stored),
        restarts=sum(rate.restarts for rate in (*rates.values(), *by_engines.values())),
    )


if __name__ == "__main__":
    main()
