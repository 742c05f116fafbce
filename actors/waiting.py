"""Which unit is played next, and by whom: the least loaded runner of a node that has room.

Invariant: a unit waits in exactly one place until it is picked. Fresh units go anywhere; one that
failed goes where it has not failed yet, while there is such a node; one that may kill its process
is picked for a runner that has nothing else, and such a runner is kept free as long as one waits.
"""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from actors.nodes import Nodes
from actors.runners import Runner
from actors.suspects import Suspects
from r2v_dist.episodes import Unit


@dataclass(frozen=True)
class Standing:
    """A runner that can play: its node, how many units it has, and whether one of them is to be
    alone.
    """

    runner: Runner
    node: str
    load: int = 0
    occupied: bool = False


class Waiting:
    """The units of a stage that nobody plays at the moment."""

    def __init__(
        self, units: Sequence[Unit], nodes: Nodes, suspects: Suspects, in_flight: int
    ) -> None:
        self._fresh = deque(units)
        self._again = deque[Unit]()
        self._alone = deque[Unit]()
        self._nodes = nodes
        self._suspects = suspects
        self._in_flight = in_flight
        self._reserved: Runner | None = None

    def __len__(self) -> int:
        return len(self._fresh) + len(self._again) + len(self._alone)

    def put_back(self, units: Iterable[Unit], alone: bool = False) -> None:
        """Have units played again; `alone`: apart from all others."""
        for unit in units:
            isolated = alone or self._suspects.dangerous(unit)
            (self._alone if isolated else self._again).append(unit)

    def take_hopeless(self) -> list[Unit]:
        """Units that are not to be played, since others of their task were given up."""
        units: list[Unit] = []
        for queue in (self._fresh, self._again, self._alone):
            units += [unit for unit in queue if self._suspects.hopeless(unit)]
        for queue in (self._fresh, self._again, self._alone) if units else ():
            hopeful = [unit for unit in queue if not self._suspects.hopeless(unit)]
            queue.clear()
            queue.extend(hopeful)
        return units

    def pick(self, standing: Collection[Standing]) -> tuple[Standing, Unit, bool] | None:
        """The next unit, who is to play it, and whether alone; None where nobody can."""
        open_ = self._open(standing)
        places = {candidate.node for candidate in standing}
        if not self._alone:
            self._reserved = None
        for candidate in open_:
            if candidate.load == 0 and (unit := self._first(self._alone, candidate.node, places)):
                return candidate, unit, True
        self._reserve(standing, open_, places)
        for candidate in open_:
            if candidate.runner is self._reserved:
                continue
            if unit := self._first(self._again, candidate.node, places) or self._next_fresh():
                return candidate, unit, False
        return None

    def _open(self, standing: Collection[Standing]) -> list[Standing]:
        """Those that may get one unit more, the least loaded first."""
        load: dict[str, int] = {}
        for candidate in standing:
            load[candidate.node] = load.get(candidate.node, 0) + candidate.load
        room = {n: self._nodes.room(n, alone=len(load) == 1) - load[n] for n in load}
        open_ = [
            candidate
            for candidate in standing
            if room[candidate.node] > 0
            and candidate.load < self._in_flight
            and not candidate.occupied
        ]
        return sorted(open_, key=lambda candidate: candidate.load)

    def _reserve(
        self, standing: Collection[Standing], open_: Sequence[Standing], places: Collection[str]
    ) -> None:
        """Keep one runner from getting more, so that it is free for a unit that is to be alone."""
        fit = [
            candidate.runner
            for candidate in open_
            if any(self._allowed(unit, candidate.node, places) for unit in self._alone)
        ]
        if any(candidate.occupied for candidate in standing):
            self._reserved = None  # that one is free for the next in a moment
        elif self._reserved not in fit:
            self._reserved = fit[0] if fit else None

    def _first(self, queue: deque[Unit], node: str, places: Collection[str]) -> Unit | None:
        for unit in queue:
            if self._allowed(unit, node, places):
                queue.remove(unit)
                return unit
        return None

    def _next_fresh(self) -> Unit | None:
        while self._fresh:
            unit = self._fresh.popleft()
            if not self._suspects.dangerous(unit):
                return unit
            self._alone.append(unit)
        return None

    def _allowed(self, unit: Unit, node: str, places: Collection[str]) -> bool:
        if self._suspects.waits(unit):
            return False
        failed_on = self._suspects.nodes_of(unit)
        return node not in failed_on or failed_on.issuperset(places)
