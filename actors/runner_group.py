"""Env runners as Ray actors, the model servers they call, the collectors they fill: kept from stage
to stage, replaced when they die.

Invariant: a runner counts as started once it has said where it is, and as dead once its process is
gone or is long past what any unit may take.
"""

import math
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.collector import StageFolder
from actors.collector_handle import RayCollectors
from actors.env_runner import Deployment, RunnerSetup
from actors.failures import RunnerDied, UnitBroken
from actors.metrics import OFF, Meter
from actors.nodes import Nodes
from actors.ray_errors import died, first_cause, unit_failure, usage_error
from actors.ray_runner import EnvRunnerActor
from actors.totals import Totals
from actors.unit_meter import UnitMeter
from actors.vllm.server_handle import ModelServer
from cluster import environment
from cluster.post_mortem import Place, last_words, place_of
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.episodes import Episode, Unit
from r2v_dist.errors import RuntimeFailure, UsageError, warn
from r2v_dist.storage.key_set import KeySet

_GRACE_S = 30.0
"""Between the deadlines of a runner and the moment when it is taken for dead."""


@dataclass(frozen=True)
class _Given:
    """A unit that a runner was given, when, and when it is taken for dead."""

    runner: Any
    begun: float
    due: float


class RunnerGroup:
    """Starts `cluster.runners` runners at once and does not wait for them. A server is None where a
    role needs none. Logs of dead processes go to `logs`; `runner` is what a runner is an actor of.
    """

    def __init__(
        self,
        setup: RunnerSetup,
        slm: ModelServer | None,
        teacher: ModelServer | None,
        cluster: ClusterConfig,
        logs: Path | None = None,
        runner: type[EnvRunnerActor] = EnvRunnerActor,
        meter: Meter = OFF,
    ) -> None:
        self._setup = setup
        self._actor_class = runner
        self._slm = slm
        self._teacher = teacher
        self._cluster = cluster
        self._logs = logs
        self._deployment: Deployment | None = None
        self._collectors = RayCollectors(cluster.collectors, cluster.commit_deadline_s, logs, meter)
        self._meter = UnitMeter(meter)
        # A unit's own deadline stands still while it waits for an engine; what then bounds its
        # runner is the deadline of the stage.
        self._patience_s = (
            math.inf
            if slm or teacher
            else (
                setup.unit_timeout_s + setup.env_deadline_s + cluster.commit_deadline_s + _GRACE_S
            )
        )
        self.nodes = Nodes(cluster.node_rest_s)
        self._node_ids: dict[str, str] = {}
        """Ray's ids of nodes by their names."""
        self._asked: dict[Any, tuple[Any, float]] = {}
        """Where each runner is, as it was asked, and until when it may start."""
        self._places: dict[Any, Place] = {}
        self._meant: dict[Any, str] = {}
        """Ray's id of the node on which each runner was asked to start."""
        self._given: dict[Any, _Given] = {}
        self._said = ""
        self.members: list[Any] = [self._start() for _ in range(cluster.runners)]

    def open(self, folder: StageFolder, committed: KeySet | None = None) -> None:
        """Begin a stage's folder; starts the collectors where there are none."""
        self._said = ""
        self._given.clear()
        self._meter.begin(folder.path.name)
        shortfall = self._cluster.runners - len(self.members)
        self.members += [self._start() for _ in range(shortfall)]
        self._collectors.open(folder, committed)

    def deliver(self, episodes: Sequence[Episode]) -> None:
        self._collectors.deliver(episodes)

    def flush(self) -> None:
        self._collectors.flush()
        self._meter.end()

    def drop_collectors(self) -> None:
        self._collectors.drop()

    def where(self, runner: Any) -> str | None:
        if runner not in self._places:
            place_ref, deadline = self._asked[runner]
            ready, _ = ray.wait([place_ref], timeout=0)
            if not ready:
                if time.monotonic() > deadline:
                    self._do_without(runner)
                return None
            try:
                place: Place = ray.get(place_ref)
            except RayError as error:
                raise self._lost(runner, error, starting=True) from None
            self._places[runner] = place
            self._meant[runner] = place.node_id
            self._node_ids[place.node] = place.node_id
        return self._places[runner].node

    def start(self, runner: Any, unit: Unit) -> Any:
        under_way = runner.run.remote(unit, self._collectors.handle)
        now = time.monotonic()
        self._given[under_way] = _Given(runner, now, now + self._patience_s)
        return under_way

    def finished(self, under_way: Collection[Any], timeout_s: float) -> Sequence[Any]:
        for server in (self._slm, self._teacher):
            if server is not None:
                server.check()
        self._meter.look(len(under_way), len(self._places), len(self.nodes.excluded()))
        starting = [self._asked[runner][0] for runner in self.members if runner not in self._places]
        awaited = [*under_way, *starting]
        if not awaited:
            return []
        ray.wait(awaited, timeout=timeout_s)
        ready_refs, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        ready = set(ready_refs)
        now = time.monotonic()
        return [task for task in under_way if task in ready or now > self._given[task].due]

    def report(self, under_way: Any) -> Totals:
        assignment = self._given.pop(under_way)
        try:
            totals = self._report_of(under_way, assignment)
        except Exception as failure:
            self._meter.failed(failure)
            raise
        self._meter.finished(totals, time.monotonic() - assignment.begun)
        return totals

    def _report_of(self, under_way: Any, assignment: _Given) -> Totals:
        try:
            report: Totals = ray.get(under_way, timeout=0)
        except GetTimeoutError:
            ray.kill(assignment.runner)
            cause = f"no word of a unit within {self._patience_s:g} s"
            raise self._death(assignment.runner, cause, starting=False) from None
        except RayError as error:
            raise self._lost(assignment.runner, error, starting=False) from None
        return report

    def deploy(self, deployment: Deployment) -> None:
        """Hand it to every runner; one that died meanwhile is replaced."""
        self._deployment = deployment
        deadline = time.monotonic() + self._cluster.runner_start_deadline_s
        calls = [(runner, runner.deploy.remote(deployment)) for runner in self.members]
        for runner, answer in calls:
            try:
                ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
            except GetTimeoutError:
                self._do_without(runner)
            except RayError as error:
                if refusal := usage_error(error):
                    raise refusal from None
                if not isinstance(error, RayActorError):
                    raise RuntimeFailure(
                        "an env runner cannot take the new verifier or routers: "
                        f"{first_cause(error)}"
                    ) from None
                self.replace(runner, self.nodes.excluded())

    def _do_without(self, runner: Any) -> None:
        """Leave a runner out that is late. Raises RuntimeFailure where too few others started."""
        remaining = [member for member in self.members if member is not runner]
        if sum(map(self._has_started, remaining)) < self._cluster.min_runners:
            raise RuntimeFailure(self._late())
        warn(f"{self._late()}; until the next stage there are {len(remaining)}")
        self._forget(runner)
        self.members.remove(runner)

    def _has_started(self, runner: Any) -> bool:
        if runner in self._places:
            return True
        ready, _ = ray.wait([self._asked[runner][0]], timeout=0)
        return bool(ready)

    def replace(self, runner: Any, avoid: Collection[str] = (), on: str = "") -> None:
        self._forget(runner)
        self._meter.replaced()
        self.members[self.members.index(runner)] = self._start(avoid, on)

    def _forget(self, runner: Any) -> None:
        """End its process, wherever it is."""
        ray.kill(runner)
        self._places.pop(runner, None)
        self._asked.pop(runner, None)
        self._meant.pop(runner, None)
        self._given = {
            task: assignment
            for task, assignment in self._given.items()
            if assignment.runner != runner
        }

    def last_words(self) -> str:
        return "\n".join(filter(None, [self._said, self._collectors.said]))

    def stop(self) -> None:
        """End the processes of runners and collector; the servers belong to the caller."""
        self.drop_collectors()
        for runner in self.members:
            ray.kill(runner)

    def _lost(self, runner: Any, error: RayError, starting: bool) -> UsageError | RuntimeFailure:
        failure = unit_failure(error)
        if type(failure) is UsageError and len(_cores()) > 1:
            # What one machine refuses another may take: this one may lack the sandbox or the data.
            if died(error):
                return self._death(runner, str(failure), starting=True)
            return UnitBroken(str(failure))
        if not isinstance(failure, RunnerDied):
            return failure
        return self._death(runner, str(failure), starting or failure.starting)

    def _death(self, runner: Any, cause: str, starting: bool) -> RunnerDied:
        """What is known of a process that died. Its log is kept."""
        place = self._places.get(runner) or place_of(runner)
        if place is None:
            return RunnerDied(cause, starting)
        self._node_ids[place.node] = place.node_id
        self._said = last_words(place, "env runner", self._logs)
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        with_node = place.node_id not in alive
        return RunnerDied(f"{cause} ({place.process})", starting, place.node, with_node)

    def _late(self) -> str:
        deadline = self._cluster.runner_start_deadline_s
        return (
            f"an env runner did not start within {deadline:g} s "
            f"(cluster.runner_start_deadline_s); Ray's log is in the run directory: logs/ray.log"
        )

    def _start(self, avoid: Collection[str] = (), on: str = "") -> Any:
        slm = self._slm.handles() if self._slm else None
        teacher = self._teacher.handles() if self._teacher else None
        node = self._node_ids[on] if on else self._least_loaded(avoid)
        affinity = NodeAffinitySchedulingStrategy  # not waited for where others hold its cores
        strategy = affinity(node, soft=True, _spill_on_unavailable=not on) if node else "SPREAD"
        # Without `num_cpus` Ray asks for one core to place a runner and for none while it lives, so
        # that a learner finds the cores of runners that wait for the next stage.
        options = {
            "max_concurrency": self._cluster.in_flight + 1,
            "runtime_env": {"env_vars": environment.RUNNER},
            "scheduling_strategy": strategy,
        }
        runner = (
            ray.remote(self._actor_class)
            .options(**options)
            .remote(self._setup, slm, teacher, self._deployment)
        )
        deadline = time.monotonic() + self._cluster.runner_start_deadline_s
        self._asked[runner] = (runner.where.remote(), deadline)
        self._meant[runner] = node
        return runner

    def _least_loaded(self, avoid: Collection[str]) -> str:
        """The node with the fewest runners for its cores, of those that are not to be avoided where
        there are others; empty where no node has a core yet. Ray's own SPREAD may start three of
        four runners on one of four nodes.
        """
        cores = _cores()
        avoided = {self._node_ids[name] for name in avoid if name in self._node_ids}
        nodes = cores.keys() - avoided or cores.keys()
        runners = Counter(self._meant.values())
        return min(nodes, key=lambda node: ((runners[node] + 1) / cores[node], node), default="")


def _cores() -> dict[str, float]:
    """Cores of the nodes on which a runner may start, by Ray's ids."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return {n["NodeID"]: n["Resources"]["CPU"] for n in alive if n["Resources"].get("CPU")}
