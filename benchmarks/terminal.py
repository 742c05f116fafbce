"""What a terminal costs: its start, its commands against those of a bare bash, coming back to a
state by a snapshot against playing it again, and its memory.

`ratio` is commands per second against a bare bash: the oracles of the project's own tasks, typed
command by command into a terminal, against one bash that runs the same commands as a script in an
equal sandbox. Both sides must pass the task's tests.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from benchmarks.harness import Mismatch, Spent, interleave
from envs.terminal_bench.judge import judge, prepare
from envs.terminal_bench.own.catalogue import FAMILIES, task_name
from envs.terminal_bench.places import task_for
from envs.terminal_bench.sandbox.machine import SandboxMachine
from envs.terminal_bench.sandbox.options import Root
from envs.terminal_bench.sandbox.size import Size
from envs.terminal_bench.task import TerminalTask

_WAIT_S = 30.0
_EPISODES = 8


@dataclass(frozen=True)
class Back:
    """Milliseconds to be back at a state that `steps` commands lead to, and the size of its
    snapshot: medians over the tasks that have as many.
    """

    steps: int
    snapshot_ms: float
    replay_ms: float
    snapshot_bytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    parser.add_argument("--families", nargs="*", default=_quick(), help="tasks to play")
    args = parser.parse_args()
    tasks = [task_for(task_name(FAMILIES[name], 0)) for name in args.families]
    pairs = interleave(lambda: _typed(tasks), lambda: _script(tasks), args.repeats)
    commands = sum(len(task.oracle) for task in tasks)
    backs, sizes = _ways_back(tasks, args.repeats)
    measured = {
        "ratio": round(pairs.wall_ratio, 3),
        "commands_per_s": round(commands / statistics.median(one.wall_s for one in pairs.ours), 1),
        "bare_commands_per_s": round(
            commands / statistics.median(one.wall_s for one in pairs.reference), 1
        ),
        "commands": commands,
        "tasks": len(tasks),
        "start_ms": round(_start_ms(4 * args.repeats), 1),
        "snapshot_against_replay": [
            {
                "steps": back.steps,
                "snapshot_ms": round(back.snapshot_ms, 2),
                "replay_ms": round(back.replay_ms, 2),
                "ratio": round(back.replay_ms / back.snapshot_ms, 2),
                "snapshot_kb": round(back.snapshot_bytes / 1e3, 1),
            }
            for back in backs
        ],
        "snapshot_kb": {
            "smallest": round(min(sizes) / 1e3, 1),
            "median": round(statistics.median(sizes) / 1e3, 1),
            "largest": round(max(sizes) / 1e3, 1),
        },
        "memory_mib_per_episode": round(_memory_mib(), 1),
        "episodes_at_once": _EPISODES,
    }
    print(json.dumps(measured))


def _quick() -> list[str]:
    """Families whose programs are not waited for: services sleep until they answer."""
    return [
        name
        for name, family in FAMILIES.items()
        if family.category not in ("services", "processes")
    ]


def _machine() -> SandboxMachine:
    return SandboxMachine(Root(), Size())


def _typed(tasks: Sequence[TerminalTask]) -> Spent:
    spent_s = 0.0
    for task in tasks:
        machine = _machine()
        prepare(machine, task)
        started = time.perf_counter()
        for command in task.oracle:
            machine.command(command, _WAIT_S)
        spent_s += time.perf_counter() - started
        _demand_passed(machine, task)
    return Spent(spent_s)


def _script(tasks: Sequence[TerminalTask]) -> Spent:
    spent_s = 0.0
    for task in tasks:
        machine = _machine()
        prepare(machine, task)
        script = "\n".join(task.oracle)
        started = time.perf_counter()
        machine.run(["/bin/bash", "-c", script], task.build.folder, {}, _WAIT_S)
        spent_s += time.perf_counter() - started
        _demand_passed(machine, task)
    return Spent(spent_s)


def _demand_passed(machine: SandboxMachine, task: TerminalTask) -> None:
    verdict = judge(machine, task)
    machine.close()
    if not verdict.passed:
        raise Mismatch(f"the oracle of {task.name} did not pass: {verdict.said}")


def _ways_back(tasks: Sequence[TerminalTask], repeats: int) -> tuple[list[Back], list[int]]:
    """By steps, the medians over the tasks that have as many; and the bytes of every snapshot."""
    spent: dict[int, list[tuple[float, float]]] = {}
    sizes: dict[int, list[int]] = {}
    for task in tasks:
        machine = _machine()
        prepare(machine, task)
        first = machine.snapshot()
        assert first is not None
        for steps in range(1, len(task.oracle) + 1):
            machine.command(task.oracle[steps - 1], _WAIT_S)
            there = machine.snapshot()
            if there is None:
                break
            sizes.setdefault(steps, []).append(len(there))
            for _ in range(repeats):
                spent.setdefault(steps, []).append(_both_ways(machine, task, first, there, steps))
        machine.close()
    backs = []
    for steps, times in sorted(spent.items()):
        snapshot_s, replay_s = (statistics.median(way) for way in zip(*times, strict=True))
        backs.append(Back(steps, 1e3 * snapshot_s, 1e3 * replay_s, statistics.median(sizes[steps])))
    return backs, [size for of_steps in sizes.values() for size in of_steps]


def _both_ways(
    machine: SandboxMachine, task: TerminalTask, first: bytes, there: bytes, steps: int
) -> tuple[float, float]:
    """Seconds by a snapshot of the state, taken again included, and by playing it from the
    beginning's.
    """
    started = time.perf_counter()
    machine.restore(first)
    for command in task.oracle[:steps]:
        machine.command(command, _WAIT_S)
    replay_s = time.perf_counter() - started
    started = time.perf_counter()
    machine.snapshot()
    machine.restore(there)
    return time.perf_counter() - started, replay_s


def _start_ms(count: int) -> float:
    """From nothing to a shell that waits for its first command, in a small task."""
    task = task_for(task_name(FAMILIES["sum-by-group"], 0))
    times = []
    for _ in range(count):
        started = time.perf_counter()
        machine = _machine()
        prepare(machine, task)
        times.append(time.perf_counter() - started)
        machine.close()
    return 1e3 * statistics.median(times)


def _memory_mib() -> float:
    """Memory that goes with an episode: what its processes share with nobody."""
    own = psutil.Process()
    before = set(own.children(recursive=True))
    task = task_for(task_name(FAMILIES["sum-by-group"], 0))
    machines = [_machine() for _ in range(_EPISODES)]
    for machine in machines:
        prepare(machine, task)
        machine.command("ls", _WAIT_S)
    children = [one for one in own.children(recursive=True) if one not in before]
    total = sum(child.memory_full_info().uss for child in children)
    for machine in machines:
        machine.close()
    return float(total / len(machines) / 2**20)


if __name__ == "__main__":
    main()
