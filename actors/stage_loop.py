"""Hands units to runners, keeps every runner full, and charges a failure to what caused it.

Invariant: every unit is waiting, held, under way on exactly one runner, or committed. Failures of
machines have a budget of their own; when it is spent the stage stops with the first cause. A unit
that fails by itself, on nodes that finish others, is committed as a row (QUARANTINED). What our own
code refuses (UsageError) would be refused on every machine, and ends the stage at once.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from actors.failures import RunnerDied, UnitBroken, UnitFailed
from actors.nodes import Nodes, UnitName, name_of
from actors.quarantine import Quarantine
from actors.runners import Runner, Runners, UnderWay
from actors.suspects import Suspects
from actors.totals import Totals
from actors.waiting import Standing, Waiting
from cluster.health import State
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.episodes import Unit
from r2v_dist.errors import RuntimeFailure, warn

OnProgress = Callable[[Totals, int], None]


@dataclass(frozen=True)
class _Playing:
    """A unit that a runner has. `control`: it was finished before, and shows whether its node
    works.
    """

    runner: Runner
    node: str
    unit: Unit
    alone: bool = False
    control: bool = False


class StageLoop:
    """The loop of one stage, until a collector is lost or every unit is committed."""

    def __init__(
        self,
        units: Sequence[Unit],
        runners: Runners,
        cluster: ClusterConfig,
        quarantine: Quarantine,
        on_progress: OnProgress,
    ) -> None:
        self.control: Unit | None = None
        """A unit that was finished."""
        self._total = len(units)
        self._totals = Totals()
        self._runners = runners
        self._nodes: Nodes = runners.nodes
        self._cluster = cluster
        self._quarantine = quarantine
        self._on_progress = on_progress
        self._suspects = Suspects()
        self._waiting = Waiting(units, self._nodes, self._suspects, cluster.in_flight)
        self._where: dict[Runner, str] = {}
        """The nodes of the runners that have started."""
        self._under_way: dict[UnderWay, _Playing] = {}
        self._failures: dict[UnitName, int] = {}
        self._gone = set[str]()
        """Nodes on which a runner was to start and has not."""
        self._dead = 0
        """Runners that died by nobody's fault since a unit was finished."""
        self._last = time.monotonic()
        """When a unit was finished."""
        self._stall_s = max(cluster.stall_deadline_s, 1.5 * cluster.unit_timeout_s)

    def run(self) -> Totals:
        self._meet_runners()
        self._fill()
        while self._under_way or len(self._waiting) or self._quarantine.held:
            self._take_reports()
            self._meet_runners()
            self._sentence()
            self._leave_excluded()
            self._probe_nodes()
            self._fill()
            self._settle()
            self._on_progress(self._totals, self._total)
            self._check_stall()
        return self._totals

    def _meet_runners(self) -> None:
        """Learn where new runners are; one that did not start, or that started where it should not,
        is replaced.
        """
        for runner in [member for member in self._runners.members if member not in self._where]:
            try:
                node = self._runners.where(runner)
            except RunnerDied as death:
                self._count_death(death)
                self._replace([runner], [death.node, *self._nodes.excluded()])
                continue
            if node is None:
                continue
            if self._nodes.state(node) is State.DEAD:
                self._replace([runner], self._nodes.excluded())
            else:
                self._where[runner] = node
                self._gone.discard(node)

    def _fill(self) -> None:
        standing = self._standing()
        while (pick := self._waiting.pick(list(standing.values()))) is not None:
            candidate, unit, alone = pick
            self._start(_Playing(candidate.runner, candidate.node, unit, alone))
            standing[candidate.runner] = replace(candidate, load=candidate.load + 1, occupied=alone)

    def _standing(self) -> dict[Runner, Standing]:
        standing = {runner: Standing(runner, node) for runner, node in self._where.items()}
        for playing in self._under_way.values():
            runner_standing = standing[playing.runner]
            standing[playing.runner] = replace(
                runner_standing, load=runner_standing.load + 1, occupied=playing.alone
            )
        return standing

    def _start(self, playing: _Playing) -> None:
        self._under_way[self._runners.start(playing.runner, playing.unit)] = playing

    def _take_reports(self) -> None:
        deaths: dict[Runner, RunnerDied] = {}
        lost_by_runner: dict[Runner, list[_Playing]] = {}
        for task in self._runners.finished(list(self._under_way), timeout_s=1.0):
            if task not in self._under_way:
                continue  # given back when its runner was replaced
            playing = self._under_way.pop(task)
            try:
                self._finish(playing, self._runners.report(task))
            except RunnerDied as death:
                deaths.setdefault(playing.runner, death)
                lost_by_runner.setdefault(playing.runner, []).append(playing)
            except UnitBroken as broken:
                self._charge(playing, str(broken), killed=False)
            except UnitFailed as failure:
                self._retry(playing.unit, failure)
        for runner, cause in deaths.items():
            if runner in self._where:
                self._bury(runner, cause, lost_by_runner[runner] + self._taken_from(runner))
            else:  # replaced meanwhile
                self._put_back(lost_by_runner[runner])

    def _finish(self, playing: _Playing, totals: Totals) -> None:
        self._dead = 0
        self._last = time.monotonic()
        self.control = self.control or playing.unit
        self._nodes.finished(playing.node, name_of(playing.unit), self._last)
        self._suspects.finished(playing.unit)
        if not playing.control:
            self._totals += totals

    def _leave_excluded(self) -> None:
        """Runners on a node that gets no more work end, and start elsewhere."""
        for node in set(self._where.values()) & set(self._nodes.excluded()):
            warn(
                f"node {node} is excluded: units failed there that succeed elsewhere, the last "
                f"with {self._nodes.cause(node)}"
            )
            self._replace(
                [r for r, at in self._where.items() if at == node], self._nodes.excluded()
            )

    def _bury(self, runner: Runner, death: RunnerDied, playings: Sequence[_Playing]) -> None:
        """A runner's process is gone. What it played alone is to blame, else nobody is yet."""
        avoid: Iterable[str] = ()
        if death.with_node:
            self._put_back(playings)
        elif death.starting or len(playings) > 1:
            self._count_death(death)
            self._put_back(playings, alone=not death.starting)
        else:
            self._charge(playings[0], str(death), killed=True)
            avoid = self._suspects.nodes_of(playings[0].unit)
        self._replace([runner], [*avoid, *self._nodes.excluded()])

    def _charge(self, playing: _Playing, cause: str, killed: bool) -> None:
        unit = playing.unit
        now = time.monotonic()
        self._nodes.failed(playing.node, name_of(unit), cause, now)
        if playing.control:
            raise RuntimeFailure(
                f"{self._nodes.complaint()}; unit {unit.task.id} z={unit.z}, which was "
                f"finished before, fails there too: {cause}"
            )
        self._suspects.charge(unit, playing.node, cause, killed, now)
        if self._suspects.enough(unit, set(self._where.values())):
            self._quarantine.held.append(unit)
        else:
            self._waiting.put_back([unit], alone=killed)

    def _retry(self, unit: Unit, failure: UnitFailed) -> None:
        """A model's failure is no fault of runner, node or unit; each unit meets a few at most."""
        name = name_of(unit)
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] > self._cluster.max_restarts:
            raise RuntimeFailure(
                f"unit {unit.task.id} z={unit.z} failed {self._failures[name]} times, last with "
                f"{failure}"
            ) from failure
        self._waiting.put_back([unit])

    def _sentence(self) -> None:
        """Give up what has failed often enough, once its nodes have shown that they work."""
        for unit in list(self._quarantine.held):
            if not (self._nodes.at_fault(name_of(unit)) or self._suspects.hopeless(unit)):
                continue
            self._totals += self._quarantine.give_up(unit, self._suspects)
            self._nodes.absolve(name_of(unit))
            for sibling in self._waiting.take_hopeless():
                self._totals += self._quarantine.give_up(sibling, self._suspects)

    def _settle(self) -> None:
        """Where nothing goes on any more, have a unit that was finished before show whether it is
        the nodes' doing.
        """
        starting = len(self._where) < len(self._runners.members)
        if self._under_way or starting or not (len(self._waiting) or self._quarantine.held):
            return
        doubted = self._nodes.in_doubt()
        if self.control is None or not doubted:
            raise RuntimeFailure(self._nodes.complaint())
        control = replace(self.control, arms=self.control.arms[:1], branches=())
        runner_of = {node: runner for runner, node in self._where.items()}
        for node in doubted:
            if node in runner_of:
                self._start(_Playing(runner_of[node], node, control, alone=True, control=True))
            elif node in self._gone:
                self._pardon(node)
            else:
                self._gone.add(node)  # unless a runner starts there
                self._replace([next(iter(self._where))], (), on=node)
                break

    def _pardon(self, node: str) -> None:
        """Nobody can say any more whose fault the failures on this node were."""
        self._nodes.forget(node)
        for unit in self._quarantine.held:
            self._suspects.pardon(unit)
        self._waiting.put_back(self._quarantine.held, alone=True)
        self._quarantine.held.clear()

    def _probe_nodes(self) -> None:
        """Give an excluded node a runner and one unit, once it has rested."""
        standing = self._standing()
        if standing and len(self._waiting) and (node := self._nodes.probe(time.monotonic())):
            mover = min(standing.values(), key=lambda candidate: candidate.load).runner
            self._replace([mover], (), on=node)

    def _count_death(self, death: RunnerDied) -> None:
        """Stop where runners only die. A constructor that raised will raise again, and is given one
        more try on every place.
        """
        self._dead += 1
        rounds = (
            min(1, self._cluster.max_restarts) if death.starting else self._cluster.max_restarts
        )
        if self._dead > rounds * len(self._runners.members):
            problem = "do not start" if death.starting else "die before one unit is finished"
            raise RuntimeFailure(f"env runners {problem} ({self._dead} tries): {death}")

    def _replace(self, runners: Iterable[Runner], avoid: Iterable[str], on: str = "") -> None:
        """New runners in place of these; what they had under way waits again."""
        for runner in list(runners):
            self._put_back(self._taken_from(runner))
            self._where.pop(runner, None)
            self._runners.replace(runner, [*avoid], on)

    def _taken_from(self, runner: Runner) -> list[_Playing]:
        """What a runner still had, which it has no more."""
        tasks = [task for task, playing in self._under_way.items() if playing.runner == runner]
        return [self._under_way.pop(task) for task in tasks]

    def _put_back(self, playings: Iterable[_Playing], alone: bool = False) -> None:
        self._waiting.put_back((playing.unit for playing in playings if not playing.control), alone)

    def _check_stall(self) -> None:
        if time.monotonic() - self._last > self._stall_s:
            raise RuntimeFailure(
                f"no unit finished within {self._stall_s:.0f} s (cluster.stall_deadline_s); "
                f"{len(self._under_way)} are under way"
            )
