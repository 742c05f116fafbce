"""Commits what is given up as rows, within the run's budget, and says so.

Invariant: a row of this kind names its reason, the user has been told of its task, and no stage has
more such tasks than `cluster.max_quarantined`, whatever attempt gave them up.
"""

from pathlib import Path

from actors.runners import Runners
from actors.suspects import Suspects, given_up
from actors.totals import Totals
from r2v_dist.episodes import Unit
from r2v_dist.errors import RuntimeFailure, warn
from r2v_dist.storage.quarantine import quarantined


class Quarantine:
    """The tasks that a stage has given up, and the units that it may give up next."""

    def __init__(self, folder: Path, runners: Runners, most: int) -> None:
        self._runners = runners
        self._most = most
        self.tasks = {entry.task: entry.detail for entry in quarantined(folder)}
        """Why the first unit of each was."""
        self.held: list[Unit] = []
        """Units that failed often enough, on nodes that have not finished anything since."""

    def give_up(self, unit: Unit, suspects: Suspects) -> Totals:
        """Commit the rows of a unit. Raises RuntimeFailure where that is one task too many."""
        if unit in self.held:
            self.held.remove(unit)
        reason = suspects.give_up(unit)
        was_given_up = unit.task.id in self.tasks
        self.tasks.setdefault(unit.task.id, reason)
        if len(self.tasks) > self._most:
            reasons = "; ".join(f"{task}: {why}" for task, why in self.tasks.items())
            raise RuntimeFailure(
                f"{len(self.tasks)} tasks cannot be played, cluster.max_quarantined = "
                f"{self._most}: {reasons}"
            )
        episodes = given_up(unit, reason)
        self._runners.deliver(episodes)
        if not was_given_up:
            warn(f"task {unit.task.id} is given up, its episodes count as failures: {reason}")
        return Totals(units=1, episodes=len(episodes), quarantined=len(episodes))
