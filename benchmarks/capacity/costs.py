"""What one unit, one step and one shard cost, as measured; written and read as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

MEASURED = Path(__file__).parent / "costs.json"


@dataclass(frozen=True)
class Costs:
    """Seconds of one core, unless the name says otherwise."""

    driver_loop: float
    """A turn of the dispatcher's loop, whatever there is."""
    driver_loop_runner: float
    """The same, for each runner."""
    driver_loop_under_way: float
    """The same, for each unit under way."""
    driver_unit: float
    """Taking the report of a unit and starting another one, with Ray's part."""
    driver_unit_runner: float
    """The same, for each runner: where a unit goes is chosen among all."""
    runner_unit: float
    """Making and resetting a unit's environment, and delivering."""
    runner_step: float
    runner_engine: float
    """Choosing among engines for a step, for each engine."""
    engine_step: float
    """The front of an engine, for one question."""
    collector_unit: float
    collector_step: float
    commit: float
    """Writing a shard; what the disk takes is not in it."""
    shard_step_bytes: float
    """Bytes on disk, for one step."""
    resume_episode: float
    """Reading the keys of one committed episode, when a stage begins."""
    machine_step: float
    """What Ray's own processes take of the machine, for one step."""


@dataclass(frozen=True)
class Point:
    """A measured rate: `benchmarks.scaling` with so many runners on so many cores."""

    runners: int
    in_flight: int
    answer_s: float
    steps: int
    rounds: int
    cores: int
    steps_per_s: float


@dataclass(frozen=True)
class Measured:
    """Costs, rates of the same kind of machine, and how and where all were measured (`source`)."""

    source: str
    costs: Costs
    curve: tuple[Point, ...]

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_costs(path: Path = MEASURED) -> Measured:
    """What `write` wrote."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    curve = tuple(Point(**point) for point in raw["curve"])
    return Measured(raw["source"], Costs(**raw["costs"]), curve)
