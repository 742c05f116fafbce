"""What the simulation says: first that it gives the rates that were measured, then what a design
does on so many GPUs.
"""

from dataclasses import dataclass, replace

from benchmarks.capacity.costs import Costs, Measured, Point
from benchmarks.capacity.simulation import SHARD_EPISODES, Shape, Simulation
from benchmarks.harness import Mismatch

AGREEMENT = 0.1
GPUS_A_MACHINE = 8
CORES_A_MACHINE = 64
PART = 64
"""GPUs of a part of a cluster, at most."""
ENOUGH = 0.95
"""From this share of the ideal rate on, the engines are what limits."""
_KINDS = {
    "driver": (
        "driver_loop",
        "driver_loop_runner",
        "driver_loop_under_way",
        "driver_unit",
        "driver_unit_runner",
    ),
    "collector": ("collector_unit", "collector_step", "commit"),
    "runner": ("runner_unit", "runner_step", "runner_engine"),
    "engine front": ("engine_step",),
}
"""The costs of each part of the design."""
_WATCHED_S = 10.0
"""Of a shape, at least; a small one is watched for longer, since it does less in that time."""
_WATCHED_GPU_S = 4000.0


@dataclass(frozen=True)
class Assumed:
    """What is not measured here: an engine of one GPU, and the episodes."""

    places: int
    answer_s: float
    steps: int
    arms: int


@dataclass(frozen=True)
class Answer:
    """What a design does on so many GPUs. `ideal` is the rate of engines that never wait."""

    gpus: int
    design: str
    steps_per_s: float
    ideal: float
    limit: str
    busy: dict[str, float]


def check(measured: Measured) -> float:
    """The worst quotient of a simulated and a measured rate. Raises Mismatch where they differ by
    more than a tenth.
    """
    worst = 1.0
    print("SIMULATED beside measured, steps/s:")
    for point in measured.curve:
        simulated = simulate(point, measured.costs)
        quotient = simulated / point.steps_per_s
        print(
            f"  {point.runners:>3} runners  {simulated:7.2f}  {point.steps_per_s:7.2f}  "
            f"{quotient:.3f}"
        )
        worst = min(worst, quotient, 1 / quotient)
    if worst < 1 - AGREEMENT:
        raise Mismatch(f"simulated and measured rates differ by {1 - worst:.0%}, more than a tenth")
    return worst


def simulate(point: Point, costs: Costs) -> float:
    """Steps a second of a measured point."""
    shape = Shape(
        point.runners, point.in_flight, 1, 100_000, point.answer_s, point.steps, cores=point.cores
    )
    units = point.runners * point.in_flight * point.rounds
    return Simulation(shape, costs).play(units).steps_per_s


def answers_for(gpus: int, assumed: Assumed, costs: Costs) -> list[Answer]:
    """The design as it is, with more collectors, and in parts that know nothing of each other."""
    shape = shape_of(gpus, assumed)
    answers = [_answer(gpus, "one collector", shape, costs, assumed)]
    collectors = _collectors(answers[0].ideal, costs, assumed)
    if collectors > 1:
        more = replace(shape, collectors=collectors)
        answers.append(_answer(gpus, f"{collectors} collectors", more, costs, assumed))
    if gpus > PART:
        parts = -(-gpus // PART)
        size = -(-gpus // parts)
        collectors = _collectors(size * assumed.places / assumed.answer_s, costs, assumed)
        part = replace(shape_of(size, assumed), collectors=collectors)
        one = _answer(size, f"{parts} parts", part, costs, assumed)
        times = gpus / size
        together = replace(one, gpus=gpus, ideal=one.ideal * times)
        answers.append(replace(together, steps_per_s=one.steps_per_s * times))
    return answers


def shape_of(gpus: int, assumed: Assumed) -> Shape:
    """An engine and a runner for each GPU; driver and collectors on a machine of their own."""
    return Shape(
        runners=gpus,
        in_flight=assumed.places + assumed.places // 4,
        engines=gpus,
        places=assumed.places,
        answer_s=assumed.answer_s,
        steps=assumed.steps,
        arms=assumed.arms,
        machines=-(-gpus // GPUS_A_MACHINE),
        cores=CORES_A_MACHINE,
        apart=True,
    )


def _collectors(steps_per_s: float, costs: Costs, assumed: Assumed) -> int:
    """So many that none is busy for more than two thirds of the time."""
    steps = assumed.steps * assumed.arms
    unit_s = costs.collector_unit + costs.collector_step * steps
    unit_s += costs.commit * assumed.arms / SHARD_EPISODES
    return max(1, -(-int(1000 * steps_per_s / steps * unit_s * 1.5) // 1000))


def _answer(gpus: int, design: str, shape: Shape, costs: Costs, assumed: Assumed) -> Answer:
    watched_s = max(_WATCHED_S, _WATCHED_GPU_S / shape.engines)
    outcome = Simulation(shape, costs).watch(watched_s / 2, watched_s)
    ideal = gpus * assumed.places / assumed.answer_s
    limit = "engine"
    if outcome.steps_per_s < ENOUGH * ideal:
        limit = _limit(shape, costs)
    return Answer(gpus, design, outcome.steps_per_s, ideal, limit, outcome.busy)


def _limit(shape: Shape, costs: Costs) -> str:
    """The part of the design without whose costs most would be done."""
    rates = {}
    for kind, names in _KINDS.items():
        free = replace(costs, **dict.fromkeys(names, 0.0))
        rates[kind] = Simulation(shape, free).watch(_WATCHED_S / 2, _WATCHED_S).steps_per_s
    return max(rates, key=lambda kind: rates[kind])
