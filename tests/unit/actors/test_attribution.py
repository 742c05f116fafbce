"""Failures are charged to what caused them: a cluster of stand-ins in which tasks kill, hang or
raise and nodes are broken, under any order of events.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.collector import StageFolder
from actors.dispatcher import roll_out
from actors.env_runner import Deployment
from actors.failures import RunnerDied, UnitBroken
from actors.nodes import Nodes
from actors.totals import Totals
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.episodes import Arm, Episode, StopReason, Task, Unit
from r2v_dist.errors import RuntimeFailure
from r2v_dist.storage.key_set import KeySet

ARM = Arm("slm_only", None, "p", "t", 0)
CLUSTER = ClusterConfig(runners=4, in_flight=4, max_quarantined=3)
FOLDER = Path("/nowhere")


def units(tasks: int, seeds: int = 1) -> list[Unit]:
    made = [Task(f"t{i}", "test", "r2v/TextWorld-v0", ()) for i in range(tasks)]
    return [Unit("evaluate", "h", task, z, 0, (ARM,)) for task in made for z in range(seeds)]


@dataclass(eq=False)
class Runner:
    node: str
    alive: bool = True


@dataclass(eq=False)
class Given:
    runner: Runner
    unit: Unit
    died: bool = False


@dataclass
class Machines:
    """Runners on some nodes; events come in the order of a seed. `kills` and `raises` are tasks,
    `broken` nodes on which every environment raises.
    """

    node_names: Sequence[str]
    seed: int
    kills: Collection[str] = ()
    raises: Collection[str] = ()
    broken: set[str] = field(default_factory=set)
    slow: int = 1
    """How much later than a failure a success comes."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.nodes = Nodes(rest_s=0.0)
        self.members = [
            Runner(self.node_names[i % len(self.node_names)]) for i in range(CLUSTER.runners)
        ]
        self.rows: list[Episode] = []
        self.played: list[Unit] = []
        self.deaths = 0
        self.failed_on_broken = 0
        self.alone_deaths: list[str] = []

    def where(self, runner: Runner) -> str:
        return runner.node

    def deploy(self, deployment: Deployment) -> None: ...

    def open(self, folder: StageFolder, committed: KeySet | None = None) -> None: ...

    def flush(self) -> None: ...

    def drop_collectors(self) -> None: ...

    def deliver(self, episodes: Sequence[Episode]) -> None:
        self.rows += episodes

    def start(self, runner: Runner, unit: Unit) -> Given:
        assert runner.alive
        return Given(runner, unit)

    def finished(self, under_way: Collection[Given], timeout_s: float) -> Sequence[Given]:
        if not under_way:
            return []
        dead = [one for one in under_way if not one.runner.alive]
        quick = [one for one in under_way if self._fails(one) or self.rng.random() < 1 / self.slow]
        chosen = self.rng.choice(dead or quick or list(under_way))
        if chosen.unit.task.id in self.kills and chosen.runner.alive:
            chosen.runner.alive = False
            self.deaths += 1
        return [chosen]

    def report(self, given: Given) -> Totals:
        if not given.runner.alive:
            raise RunnerDied("Segmentation fault", starting=False)
        if given.runner.node in self.broken:
            self.failed_on_broken += 1
            raise UnitBroken("FileNotFoundError: no games here")
        if given.unit.task.id in self.raises:
            raise UnitBroken("ValueError: a bad game")
        self.played.append(given.unit)
        return Totals(1, 1)

    def replace(self, runner: Runner, avoid: Collection[str] = (), on: str = "") -> None:
        places = [name for name in self.node_names if name not in avoid] or [*self.node_names]
        runner.alive = False
        new = Runner(on or self.rng.choice(places))
        self.members[self.members.index(runner)] = new

    def last_words(self) -> str:
        return ""

    def _fails(self, given: Given) -> bool:
        bad = {*self.kills, *self.raises}
        return given.runner.node in self.broken or given.unit.task.id in bad


def play(machines: Machines, todo: Sequence[Unit]) -> Totals:
    return roll_out(todo, FOLDER, machines, CLUSTER, lambda *_: None)


def given_up(machines: Machines) -> set[str]:
    assert all(row.stop_reason is StopReason.QUARANTINED for row in machines.rows)
    assert not any(row.success for row in machines.rows)
    return {row.key.task for row in machines.rows}


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    nodes=st.integers(1, 3),
    poisoned=st.integers(0, 19),
    kind=st.sampled_from(["kills", "raises"]),
    slow=st.integers(1, 20),
)
def test_one_poisoned_task_is_given_up_and_nobody_else(
    seed: int, nodes: int, poisoned: int, kind: str, slow: int
) -> None:
    machines = Machines([f"n{i}" for i in range(nodes)], seed, slow=slow)
    setattr(machines, kind, {f"t{poisoned}"})
    todo = units(20)
    totals = play(machines, todo)
    assert given_up(machines) == {f"t{poisoned}"}
    assert {unit.task.id for unit in machines.played} == {u.task.id for u in todo} - {
        f"t{poisoned}"
    }
    assert totals.episodes == len(todo)
    assert machines.deaths <= CLUSTER.in_flight + 3
    assert not machines.nodes.excluded() or nodes > 1


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["kills", "raises"]))
def test_a_task_that_fails_under_every_seed_costs_few_tries(seed: int, kind: str) -> None:
    machines = Machines(["n0", "n1"], seed)
    setattr(machines, kind, {"t3"})
    totals = play(machines, units(10, seeds=10))
    assert given_up(machines) == {"t3"}
    assert len(machines.rows) == 10
    assert totals.quarantined == 10
    assert machines.deaths <= CLUSTER.runners * CLUSTER.in_flight + 3


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), slow=st.integers(1, 50))
def test_a_broken_node_is_left_after_a_few_units_and_no_task_is_blamed(
    seed: int, slow: int
) -> None:
    machines = Machines(["good", "bad"], seed, broken={"bad"}, slow=slow)
    machines.nodes = Nodes(rest_s=10**6)
    todo = units(40)
    totals = play(machines, todo)
    assert machines.rows == []
    assert totals.episodes == len(todo)
    assert machines.failed_on_broken <= 5
    assert machines.nodes.excluded() == ["bad"]
    assert {runner.node for runner in machines.members} == {"good"}


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_a_broken_node_and_a_poisoned_task_are_told_apart(seed: int) -> None:
    machines = Machines(["a", "bad", "c"], seed, broken={"bad"}, raises={"t5"}, slow=5)
    machines.nodes = Nodes(rest_s=10**6)
    play(machines, units(40))
    assert given_up(machines) == {"t5"}
    assert machines.nodes.excluded() == ["bad"]


def test_a_node_that_is_mended_is_used_again() -> None:
    class Mended(Machines):
        def report(self, given: Given) -> Totals:
            if self.failed_on_broken == 6:  # three exclude it, the others are probes
                self.broken.clear()
            return super().report(given)

    machines = Mended(["good", "bad"], 1, broken={"bad"}, slow=5)
    machines.nodes = Nodes(rest_s=0.0)
    play(machines, units(60))
    assert not machines.broken
    assert machines.nodes.excluded() == []
    assert "bad" in {runner.node for runner in machines.members}
    assert machines.rows == []


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_where_every_node_is_broken_the_stage_stops_and_nothing_is_given_up(
    names: list[str],
) -> None:
    machines = Machines(names, 3, broken=set(names))
    with pytest.raises(RuntimeFailure, match=r"units fail on (one|two), where .*no games here$"):
        play(machines, units(40))
    assert machines.rows == []


def test_a_node_that_breaks_on_the_way_ends_the_run_and_nothing_is_given_up() -> None:
    class Breaking(Machines):
        def report(self, given: Given) -> Totals:
            if len(self.played) == 12:
                self.broken.add("one")
            return super().report(given)

    machines = Breaking(["one"], 5)
    with pytest.raises(RuntimeFailure, match=r"which was finished before, fails there too"):
        play(machines, units(40))
    assert machines.rows == []


def test_too_many_poisoned_tasks_stop_the_run_and_are_named() -> None:
    poisoned = {f"t{i}" for i in (1, 8, 15, 22)}
    machines = Machines(["n0"], 4, raises=poisoned, slow=2)
    with pytest.raises(
        RuntimeFailure, match=r"^4 tasks cannot be played, cluster.max_quarantined = 3: "
    ) as failure:
        play(machines, units(40))
    assert all(f"{task}: ValueError: a bad game" in str(failure.value) for task in poisoned)
    assert len(given_up(machines)) == 3
