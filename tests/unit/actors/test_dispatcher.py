"""How a rollout stage takes failures: who is charged, who is replaced, and when it is over. Ray's
errors are real; its actors are played by a stand-in.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from actors.collector import StageFolder
from actors.dispatcher import roll_out
from actors.env_runner import Deployment
from actors.failures import CollectorLost
from actors.nodes import Nodes
from actors.ray_errors import unit_failure
from actors.totals import Totals
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.episodes import Arm, Episode, Task, Unit
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.storage.key_set import KeySet

REPORT = Totals(1, 1, 1, 1, 1, 1, 1)
TASKS = [Task(f"t{i}", "test", "r2v/TextWorld-v0", ()) for i in range(40)]
UNITS = [Unit("evaluate", "h", task, 0, 0, (Arm("slm_only", None, "p", "t", 0),)) for task in TASKS]
CLUSTER = ClusterConfig(runners=2, in_flight=4)

Outcome = Callable[["StandIn", Unit], object]


@dataclass(eq=False)
class UnderWay:
    """A unit that has come to a value, or to the error that `ray.get` raises."""

    value: Any


@dataclass
class StandIn:
    """As `RunnerGroup`; every unit comes to what `outcome` says."""

    outcome: Outcome
    replaced: int = 0
    collectors: int = 0
    tried: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.members = [object(), object()]
        self.nodes = Nodes(rest_s=60)

    def where(self, runner: object) -> str:
        return "node"

    def deploy(self, deployment: Deployment) -> None: ...

    def open(self, folder: StageFolder, committed: KeySet | None = None) -> None:
        self.collectors += 1

    def flush(self) -> None: ...

    def start(self, runner: object, unit: Unit) -> UnderWay:
        return UnderWay(self.outcome(self, unit))

    def finished(self, under_way: Collection[UnderWay], timeout_s: float) -> Sequence[UnderWay]:
        return list(under_way)[:1]

    def report(self, under_way: UnderWay) -> Totals:
        if isinstance(under_way.value, RayError):
            raise unit_failure(under_way.value)
        assert isinstance(under_way.value, Totals)
        return under_way.value

    def deliver(self, episodes: Sequence[Episode]) -> None: ...

    def replace(self, runner: object, avoid: Collection[str] = (), on: str = "") -> None:
        self.replaced += 1
        self.members[self.members.index(runner)] = object()

    def last_words(self) -> str:
        return "log of the env runner: Segmentation fault"

    def drop_collectors(self) -> None: ...


def play(outcome: Outcome, folder: Path) -> StandIn:
    runners = StandIn(outcome)
    roll_out(UNITS, folder, runners, CLUSTER, lambda *_: None)
    return runners


def raised(cause: Exception) -> Exception:
    text = f"ray::run()\n{type(cause).__module__}.{type(cause).__name__}: {cause}"
    error: Exception = RayTaskError("run", text, cause).as_instanceof_cause()
    return error


def in_constructor(cause: Exception) -> Exception:
    text = f"ray::__init__()\n{type(cause).__module__}.{type(cause).__name__}: {cause}"
    return ActorDiedError(RayTaskError("__init__", text, cause))


def first_of(units: int, error: Exception) -> Outcome:
    """The first so many tries fail, whichever unit it is."""

    def outcome(runners: StandIn, unit: Unit) -> object:
        runners.tried.append(unit.task.id)
        return error if len(runners.tried) <= units else REPORT

    return outcome


def never(error: Exception) -> Outcome:
    return first_of(10**9, error)


@pytest.mark.parametrize("how", [raised, in_constructor])
def test_what_is_refused_is_refused_once(
    how: Callable[[Exception], Exception], tmp_path: Path
) -> None:
    runners = StandIn(never(how(UsageError("slm.model = x: no template"))))
    with pytest.raises(UsageError, match=r"^slm\.model = x: no template$"):
        roll_out(UNITS, tmp_path, runners, CLUSTER, lambda *_: None)
    assert runners.replaced == 0


def test_a_constructor_that_raises_gets_one_more_try_on_every_place(tmp_path: Path) -> None:
    runners = StandIn(never(in_constructor(ValueError("no template"))))
    with pytest.raises(
        RuntimeFailure, match=r"^env runners do not start \(3 tries\): .*no template"
    ):
        roll_out(UNITS, tmp_path, runners, CLUSTER, lambda *_: None)
    assert runners.replaced == 2


def test_runners_that_only_die_end_the_stage_with_the_log_of_the_last(tmp_path: Path) -> None:
    runners = StandIn(never(ActorDiedError()))
    with pytest.raises(
        RuntimeFailure, match=r"(?s)^\d units fail on node, where nothing .*Segmentation fault$"
    ):
        roll_out(UNITS, tmp_path, runners, CLUSTER, lambda *_: None)
    assert runners.replaced < 3 * CLUSTER.in_flight * CLUSTER.runners


@pytest.mark.parametrize("error", [ActorDiedError(), in_constructor(OSError("busy"))])
def test_a_few_deaths_are_the_machines_doing(error: Exception, tmp_path: Path) -> None:
    runners = play(first_of(1, error), tmp_path)
    assert runners.replaced == 1
    assert set(runners.tried) == {task.id for task in TASKS}


def test_a_machine_failure_in_a_unit_replaces_nobody(tmp_path: Path) -> None:
    assert play(first_of(3, raised(RuntimeFailure("no answer"))), tmp_path).replaced == 0


def test_a_lost_collector_is_replaced_and_runners_are_not(tmp_path: Path) -> None:
    runners = play(first_of(9, raised(CollectorLost("it died"))), tmp_path)
    assert (runners.collectors, runners.replaced) == (3, 0)
    with pytest.raises(RuntimeFailure, match="it died"):
        play(never(raised(CollectorLost("it died"))), tmp_path)
