"""Env runners as a rollout stage uses them: Ray actors, or objects of this process.

Invariant: a unit ends in a report, in one of `actors.failures`, or in what ends the whole stage
(UsageError, StoreFailure). Where runners live decides nothing else.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from actors.collector import StageFolder
from actors.env_runner import Deployment
from actors.nodes import Nodes
from actors.totals import Totals
from r2v_dist.episodes import Episode, Unit
from r2v_dist.storage.key_set import KeySet

Runner = Any
"""Opaque: only its group knows what it is."""
UnderWay = Any
"""A unit that a runner was given, until its report is read. Opaque, and hashable."""


class Runners(Protocol):
    """The env runners of a run and the collectors that they fill, kept from stage to stage."""

    @property
    def members(self) -> Sequence[Runner]:
        """All runners, those that still start included."""

    @property
    def nodes(self) -> Nodes:
        """What the stages so far have shown of the nodes."""

    def where(self, runner: Runner) -> str | None:
        """The node of a runner, None while it starts. Raises UsageError for what it refuses,
        RunnerDied when it could not start.
        """

    def deploy(self, deployment: Deployment) -> None:
        """Hand every runner, and every later one, what has been trained since they started.

        Raises UsageError for what a runner refuses, RuntimeFailure for one that cannot take it.
        """

    def open(self, folder: StageFolder, committed: KeySet | None = None) -> None:
        """Have the collectors write to this folder under a new fence. Raises CollectorLost when
        one is gone.

        Args:
            committed: keys of the episodes that are there; without them they are read.
        """

    def deliver(self, episodes: Sequence[Episode]) -> None:
        """Hand the collectors episodes of one unit that nobody plays. Raises CollectorLost when
        the one for its task is gone.
        """

    def flush(self) -> None:
        """Return when everything that was delivered is on disk. Raises CollectorLost when a
        collector is gone.
        """

    def drop_collectors(self) -> None:
        """Have nothing that is under way delivered any more."""

    def start(self, runner: Runner, unit: Unit) -> UnderWay:
        """Give a runner a unit; returns at once."""

    def finished(self, under_way: Collection[UnderWay], timeout_s: float) -> Sequence[UnderWay]:
        """Those whose reports can be read. Returns as soon as there are some or a runner has
        started, else after the timeout.
        """

    def report(self, under_way: UnderWay) -> Totals:
        """What came of a finished unit. Raises what the module names."""

    def replace(self, runner: Runner, avoid: Collection[str] = (), on: str = "") -> None:
        """A new runner in place of one that is dead or calls a model server that is. It starts on
        the node `on` if one is named, and on none of those to avoid where there are others.
        """

    def last_words(self) -> str:
        """The last lines of the process that died last, empty where none has died in this stage."""
