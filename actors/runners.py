"""Env runners as a rollout stage uses them: Ray actors, or objects of this process.

Invariant: a unit ends in a report, in one of the failures that are named here, or in what ends the
whole stage (UsageError, StoreFailure). Where runners live decides nothing else.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from actors.env_runner import Equipment
from actors.totals import Totals
from r2v_dist.episodes import Unit
from r2v_dist.errors import RuntimeFailure
from r2v_dist.storage.fence import Fence

Runner = Any
"""Opaque: only its group knows what it is."""
UnderWay = Any
"""A unit that a runner was given, until its report is read. Opaque, and hashable."""


class CollectorLost(RuntimeFailure):
    """The collector's process is gone, and with it what it had not written yet."""


class UnitFailed(RuntimeFailure):
    """A machine's doing: the unit is to be run again."""


class RunnerDied(RuntimeFailure):
    """The runner's process is gone, and with it every unit that it had. `starting`: it never
    ran one.
    """

    def __init__(self, cause: str, starting: bool) -> None:
        super().__init__(cause)
        self.starting = starting


class Runners(Protocol):
    """The env runners of a run and the collector that they fill, kept from stage to stage."""

    @property
    def members(self) -> Sequence[Runner]:
        """All runners, those that still start included."""

    def equip(self, equipment: Equipment) -> None:
        """Hand every runner, and every later one, what has been trained since they started.

        Raises UsageError for what a runner refuses, RuntimeFailure for one that cannot take it.
        """

    def open(
        self, folder: Path, shard_episodes: int, shard_seconds: float, fence: Fence | None
    ) -> None:
        """Have the collector write to this folder under a new fence. Raises CollectorLost when it
        is gone.
        """

    def flush(self) -> None:
        """Return when everything that was delivered is on disk. Raises CollectorLost when the
        collector is gone.
        """

    def drop_collector(self) -> None:
        """Have nothing that is under way delivered any more."""

    def start(self, runner: Runner, unit: Unit) -> UnderWay:
        """Give a runner a unit; returns at once."""

    def finished(self, under_way: Collection[UnderWay], timeout_s: float) -> Sequence[UnderWay]:
        """Those whose reports can be read, as soon as there are some; none after the timeout."""

    def report(self, under_way: UnderWay) -> Totals:
        """What came of a finished unit. Raises what the module names."""

    def replace(self, runner: Runner) -> None:
        """A new runner in place of one that is dead or calls a model server that is."""

    def heal_servers(self) -> bool:
        """Bring back the model servers that died; True when one had."""


def innermost(error: BaseException) -> BaseException:
    """The error that caused the others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
