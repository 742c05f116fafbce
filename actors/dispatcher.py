"""Plays a rollout stage to its end: what is committed is not played again, and a collector that
dies is replaced.

Invariant: when a stage stops before its end, what was committed stays committed, nothing that is
under way delivers into another stage, and the message ends with the last lines of the process that
died last.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from actors.collector import StageFolder
from actors.failures import CollectorLost
from actors.nodes import name_of
from actors.quarantine import Quarantine
from actors.runners import Runners
from actors.stage_loop import OnProgress, StageLoop
from actors.totals import Totals
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.episodes import Unit
from r2v_dist.errors import RuntimeFailure, UsageError, warn
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.key_set import KeySet
from r2v_dist.storage.lease import Lease


def remaining(units: Sequence[Unit], committed: KeySet) -> list[Unit]:
    """The units without what is committed; a unit with nothing left is dropped."""
    open_units = [unit.without(committed) for unit in units] if len(committed) else units
    return [unit for unit in open_units if unit.runs]


def roll_out(
    units: Sequence[Unit],
    folder: Path,
    runners: Runners,
    cluster: ClusterConfig,
    on_progress: OnProgress,
    lease: Lease | None = None,
) -> Totals:
    """As `roll_out_with`, on runners that are there."""
    return roll_out_with(lambda: runners, units, folder, cluster, on_progress, lease)


def roll_out_with(
    start: Callable[[], Runners],
    units: Sequence[Unit],
    folder: Path,
    cluster: ClusterConfig,
    on_progress: OnProgress,
    lease: Lease | None = None,
) -> Totals:
    """Run every unit that is not committed yet and commit its episodes under `folder`. `start`
    gives the runners, and is called only where there is such a unit. A collector that dies is
    replaced, up to `cluster.max_restarts` times in which nothing is committed. Without a lease
    nobody else may write to the folder.

    Raises UsageError for what a runner refuses, RuntimeFailure when failures of machines exceed
    `cluster.max_restarts`, or tasks that are given up `cluster.max_quarantined`, and Superseded
    where another driver has taken over.
    """
    todo_at_death = deaths = 0
    while True:
        # First the fence, then the look at what is committed: an earlier writer adds nothing after.
        fence = None if lease is None else lease.next_fence()
        committed = rollout_store.committed_keys(folder)
        todo = remaining(units, committed)
        if not todo:
            return Totals()
        runners = start()
        target = StageFolder(folder, cluster.shard_episodes, cluster.shard_seconds, fence)
        begin = partial(runners.open, target, committed)
        try:
            return _play(units, todo, folder, runners, cluster, on_progress, begin)
        except CollectorLost as loss:
            deaths = deaths + 1 if len(todo) == todo_at_death else 1
            todo_at_death = len(todo)
            if deaths > cluster.max_restarts:
                raise _told(loss, runners) from loss
            warn(f"{loss}; it is started anew, and what it had not written is played again")


def _play(
    units: Sequence[Unit],
    todo: Sequence[Unit],
    folder: Path,
    runners: Runners,
    cluster: ClusterConfig,
    on_progress: OnProgress,
    begin: Callable[[], None],
) -> Totals:
    try:
        begin()
        quarantine = Quarantine(folder, runners, cluster.max_quarantined)
        loop = StageLoop(todo, runners, cluster, quarantine, on_progress)
        loop.control = _control(units, todo, quarantine)
        totals = loop.run()
        runners.flush()
        return totals
    except (RuntimeFailure, UsageError) as failure:
        # units may still be under way, and must not deliver into another stage
        runners.drop_collectors()
        if type(failure) is RuntimeFailure:
            raise _told(failure, runners) from failure
        raise


def _told(failure: RuntimeFailure, runners: Runners) -> RuntimeFailure:
    """The failure with the last lines of the process that died last."""
    return RuntimeFailure("\n".join(filter(None, [str(failure), runners.last_words()])))


def _control(units: Sequence[Unit], todo: Sequence[Unit], quarantine: Quarantine) -> Unit | None:
    """A unit that an earlier attempt finished."""
    open_names = {name_of(unit) for unit in todo}
    finished_units = (unit for unit in units if name_of(unit) not in open_names)
    return next((unit for unit in finished_units if unit.task.id not in quarantine.tasks), None)
