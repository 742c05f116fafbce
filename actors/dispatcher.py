"""Drives a rollout stage: hands units to runners, keeps every runner full, retries what machines
did wrong.

Invariant: every unit is either waiting, under way on exactly one runner, or committed.
Infrastructure failures have a budget of their own; when it is spent the stage stops with the first
cause, and what was committed stays committed. What our own code refuses (UsageError) would be
refused on every machine, and ends the stage at once.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.runners import CollectorLost, Runner, RunnerDied, Runners, UnderWay, UnitFailed
from actors.totals import Totals
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.episodes import Unit
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.lease import Lease

STALL_DEADLINE_S = 900.0


OnProgress = Callable[[Totals, int], None]


def remaining(units: Sequence[Unit], folder: Path) -> list[Unit]:
    """The units without what is committed; a unit with nothing left is dropped."""
    done = rollout_store.committed_keys(folder)
    return [left for unit in units if (left := unit.without(done)).runs]


def roll_out(
    units: Sequence[Unit],
    folder: Path,
    runners: Runners,
    cluster: ClusterConfig,
    on_progress: OnProgress,
    lease: Lease | None = None,
) -> Totals:
    """Run every unit that is not committed yet and commit its episodes under `folder`. A collector
    that dies is replaced once. Without a lease nobody else may write to the folder.

    Raises UsageError for what a runner refuses, RuntimeFailure when failures of machines exceed
    `cluster.max_restarts`, Superseded where another driver has taken over.
    """
    try:
        return _roll_out(units, folder, runners, cluster, on_progress, lease)
    except CollectorLost:
        return _roll_out(units, folder, runners, cluster, on_progress, lease)


def _roll_out(
    units: Sequence[Unit],
    folder: Path,
    runners: Runners,
    cluster: ClusterConfig,
    on_progress: OnProgress,
    lease: Lease | None,
) -> Totals:
    # First the fence, then the look at what is committed: an earlier writer adds nothing after it.
    fence = None if lease is None else lease.next_fence()
    todo = remaining(units, folder)
    if not todo:
        return Totals()
    try:
        runners.open(folder, cluster.shard_episodes, cluster.shard_seconds, fence)
        totals = _Dispatcher(todo, runners, cluster, on_progress).run()
        runners.flush()
        return totals
    except (RuntimeFailure, UsageError):
        # units may still be under way, and must not deliver into another stage
        runners.drop_collector()
        raise


class _Dispatcher:
    def __init__(
        self,
        units: Sequence[Unit],
        runners: Runners,
        cluster: ClusterConfig,
        on_progress: OnProgress,
    ) -> None:
        self._todo = deque(units)
        self._total = len(units)
        self._failures: dict[tuple[str, int | None], int] = {}
        self._runners = runners
        self._cluster = cluster
        self._on_progress = on_progress
        self._under_way: dict[UnderWay, tuple[Runner, Unit]] = {}
        self._dead = 0
        """Runners that died since a unit was finished."""
        self._last = time.monotonic()
        """When a unit was finished, or an engine was brought back."""
        self._stall_s = max(STALL_DEADLINE_S, 1.5 * cluster.unit_timeout_s)

    def run(self) -> Totals:
        totals = Totals()
        self._fill()
        while self._under_way:
            for ended in self._runners.finished(list(self._under_way), timeout_s=1.0):
                if ended not in self._under_way:
                    continue  # given back to the queue when its runner was replaced
                runner, unit = self._under_way.pop(ended)
                try:
                    totals += self._runners.report(ended)
                except (UnitFailed, RunnerDied) as failure:
                    self._recover(runner, unit, failure)
                    continue
                self._dead = 0
                self._last = time.monotonic()
            self._fill()
            self._on_progress(totals, self._total)
            if time.monotonic() - self._last > self._stall_s:
                raise RuntimeFailure(
                    f"no unit finished within {self._stall_s:.0f} s; {len(self._under_way)} "
                    f"are under way"
                )
        return totals

    def _fill(self) -> None:
        load = dict.fromkeys(self._runners.members, 0)
        for runner, _ in self._under_way.values():
            load[runner] += 1
        while self._todo and min(load.values()) < self._cluster.in_flight:
            runner = min(load, key=lambda r: load[r])
            unit = self._todo.popleft()
            self._under_way[self._runners.start(runner, unit)] = (runner, unit)
            load[runner] += 1

    def _recover(self, runner: Runner, unit: Unit, failure: UnitFailed | RunnerDied) -> None:
        if isinstance(failure, RunnerDied):
            self._count_death(failure)
        name = (unit.task.id, unit.z)
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] > self._cluster.max_restarts:
            raise RuntimeFailure(
                f"unit {unit.task.id} z={unit.z} failed {self._failures[name]} times, last with "
                f"{failure}"
            ) from failure
        self._todo.append(unit)
        if isinstance(failure, RunnerDied):
            self._replace(runner)
        elif self._runners.heal_servers():
            self._last = time.monotonic()
            # Runners hold handles of the engine that died.
            for other in list(self._runners.members):
                self._replace(other)

    def _count_death(self, death: RunnerDied) -> None:
        """Stop where runners only die: one charges a single unit of all that it held, so that their
        units' budgets last for hours.

        A constructor that raised will raise again, and is given one more try on every place.
        """
        self._dead += 1
        rounds = (
            min(1, self._cluster.max_restarts) if death.starting else self._cluster.max_restarts
        )
        if self._dead > rounds * len(self._runners.members):
            what = "do not start" if death.starting else "die before one unit is finished"
            raise RuntimeFailure(f"env runners {what} ({self._dead} tries): {death}")

    def _replace(self, runner: Runner) -> None:
        """A new runner in place of this one; what it had under way waits again."""
        lost = [one for one, (owner, _) in self._under_way.items() if owner == runner]
        self._todo.extend(self._under_way.pop(one)[1] for one in lost)
        self._runners.replace(runner)
