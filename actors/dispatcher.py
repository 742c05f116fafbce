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
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.ray_errors import cause_of, first_cause, innermost, usage_error
from actors.runner_group import RunnerGroup
from actors.totals import Totals
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.episodes import Episode, Unit
from r2v_dist.errors import RuntimeFailure, StoreFailure, UsageError
from r2v_dist.storage import rollouts as rollout_store

COMMIT_DEADLINE_S = 120.0
STALL_DEADLINE_S = 900.0


OnProgress = Callable[[Totals, int], None]


class CollectorLost(RuntimeFailure):
    """The collector's process is gone, and with it what it had not written yet."""


class CollectorHandle:
    """Delivers episodes to the collector actor and waits until it has taken them."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def __call__(self, episodes: Sequence[Episode]) -> int:
        try:
            taken: int = await self._actor.add.remote(episodes)
        except RayActorError as error:
            if isinstance(error, RayTaskError):
                raise
            raise CollectorLost(first_cause(error)) from None
        return taken


def remaining(units: Sequence[Unit], folder: Path) -> list[Unit]:
    """The units without what is committed; a unit with nothing left is dropped."""
    done = rollout_store.committed_keys(folder)
    return [left for unit in units if (left := unit.without(done)).runs]


def roll_out(
    units: Sequence[Unit],
    folder: Path,
    runners: RunnerGroup,
    cluster: ClusterConfig,
    on_progress: OnProgress,
) -> Totals:
    """Run every unit that is not committed yet and commit its episodes under `folder`. A collector
    that dies is replaced once.

    Raises UsageError for what a runner refuses, RuntimeFailure when failures of machines exceed
    `cluster.max_restarts`.
    """
    try:
        return _roll_out(units, folder, runners, cluster, on_progress)
    except CollectorLost:
        return _roll_out(units, folder, runners, cluster, on_progress)


def _roll_out(
    units: Sequence[Unit],
    folder: Path,
    runners: RunnerGroup,
    cluster: ClusterConfig,
    on_progress: OnProgress,
) -> Totals:
    todo = remaining(units, folder)
    if not todo:
        return Totals()
    collector = runners.collector
    try:
        ray.get(
            collector.open.remote(folder, cluster.shard_episodes, cluster.shard_seconds),
            timeout=COMMIT_DEADLINE_S,
        )
        totals = _Dispatcher(todo, runners, cluster, CollectorHandle(collector), on_progress).run()
        ray.get(collector.flush.remote(), timeout=COMMIT_DEADLINE_S)
        return totals
    except RayError as error:
        runners.drop_collector()
        lost = isinstance(error, RayActorError) and not isinstance(error, RayTaskError)
        problem = f"the collector of {folder} failed: {first_cause(error)}"
        raise usage_error(error) or (CollectorLost if lost else RuntimeFailure)(problem) from None
    except (RuntimeFailure, UsageError):
        # units may still be under way, and must not deliver into another stage
        runners.drop_collector()
        raise


class _Dispatcher:
    def __init__(
        self,
        units: Sequence[Unit],
        runners: RunnerGroup,
        cluster: ClusterConfig,
        deliver: CollectorHandle,
        on_progress: OnProgress,
    ) -> None:
        self._todo = deque(units)
        self._total = len(units)
        self._failures: dict[tuple[str, int | None], int] = {}
        self._runners = runners
        self._cluster = cluster
        self._deliver = deliver
        self._on_progress = on_progress
        self._under_way: dict[ray.ObjectRef[Totals], tuple[Any, Unit]] = {}
        self._dead = 0
        """Runners that died since a unit was finished."""
        self._last = time.monotonic()
        """When a unit was finished, or an engine was brought back."""

    def run(self) -> Totals:
        totals = Totals()
        self._fill()
        while self._under_way:
            ready, _ = ray.wait(list(self._under_way), timeout=1.0)
            for ref in ready:
                if ref not in self._under_way:
                    continue  # given back to the queue when its runner was replaced
                runner, unit = self._under_way.pop(ref)
                try:
                    totals += ray.get(ref)
                except RayError as error:
                    self._recover(runner, unit, error)
                    continue
                self._dead = 0
                self._last = time.monotonic()
            self._fill()
            self._on_progress(totals, self._total)
            if time.monotonic() - self._last > STALL_DEADLINE_S:
                raise RuntimeFailure(
                    f"no unit finished within {STALL_DEADLINE_S:.0f} s; {len(self._under_way)} "
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
            self._under_way[runner.run.remote(unit, self._deliver)] = (runner, unit)
            load[runner] += 1

    def _recover(self, runner: Any, unit: Unit, error: RayError) -> None:
        if (full := cause_of(error, StoreFailure)) is not None:
            raise full from None
        if refused := usage_error(error):
            raise refused from None
        if isinstance(lost := innermost(error), CollectorLost):
            raise CollectorLost(str(lost)) from None
        died = isinstance(error, RayActorError) and not isinstance(error, RayTaskError)
        if died:
            self._count_death(error)
        name = (unit.task.id, unit.z)
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] > self._cluster.max_restarts:
            raise RuntimeFailure(
                f"unit {unit.task.id} z={unit.z} failed {self._failures[name]} times, last with "
                f"{first_cause(error)}"
            )
        self._todo.append(unit)
        if died:
            self._replace(runner)
        elif self._runners.heal_servers():
            self._last = time.monotonic()
            # Runners hold handles of the engine that died.
            for other in list(self._runners.members):
                self._replace(other)

    def _count_death(self, error: RayActorError) -> None:
        """Stop where runners only die: one charges a single unit of all that it held, so that their
        units' budgets last for hours.

        A constructor that raised will raise again, and is given one more try on every place.
        """
        self._dead += 1
        rounds = (
            min(1, self._cluster.max_restarts)
            if error.actor_init_failed
            else self._cluster.max_restarts
        )
        if self._dead > rounds * len(self._runners.members):
            what = "do not start" if error.actor_init_failed else "die before one unit is finished"
            raise RuntimeFailure(f"env runners {what} ({self._dead} tries): {first_cause(error)}")

    def _replace(self, runner: Any) -> None:
        """A new runner in place of this one; what it had under way waits again."""
        lost = [ref for ref, (owner, _) in self._under_way.items() if owner == runner]
        self._todo.extend(self._under_way.pop(ref)[1] for ref in lost)
        self._runners.replace(runner)
