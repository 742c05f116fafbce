"""Units that fail by what they play: each is charged for its own failures alone, and given up when
there are enough.

Invariant: a unit is charged only where nothing else can be to blame: it was alone on the process
that died, or its own environment raised or ran past the unit's deadline. What else was on that
process is a suspect, which costs it nothing but to be played alone.
"""

from collections.abc import Collection

from actors.nodes import UnitName, name_of
from cluster.health import Health, State
from r2v_dist.episodes import Branch, Episode, StopReason, Unit

CHARGES = 3
"""Failures of its own after which a unit is given up; one is enough where its task was before."""
NODES = 2
"""They are to be on so many nodes, where there are as many."""
UNITS = 3
"""Units of a task that are given up before the others are given up with them."""


class Suspects:
    """The charges of one stage."""

    def __init__(self) -> None:
        self._health: dict[UnitName, Health] = {}
        self._nodes: dict[UnitName, list[str]] = {}
        self._causes: dict[UnitName, str] = {}
        self._given_up: dict[str, dict[UnitName, str]] = {}
        self._killers = set[str]()
        self._tried: dict[str, UnitName] = {}
        """The unit of a task whose charges are to be settled before others of it are tried."""

    def charge(self, unit: Unit, node: str, cause: str, killed: bool, now: float) -> None:
        """A failure of its own. `killed`: it took its process along."""
        name = name_of(unit)
        nodes = self._nodes.setdefault(name, [])
        limit = 1 if unit.task.id in self._given_up else CHARGES
        self._health.setdefault(name, Health(limit)).strike(f"{len(nodes)}: {node}", now)
        nodes.append(node)
        self._causes[name] = cause
        self._tried.setdefault(unit.task.id, name)
        if killed:
            self._killers.add(unit.task.id)

    def finished(self, unit: Unit) -> None:
        """It was played to its end."""
        if self._tried.get(unit.task.id) == name_of(unit):
            del self._tried[unit.task.id]

    def pardon(self, unit: Unit) -> None:
        """What it was charged for counts no more."""
        self.finished(unit)
        for record in (self._health, self._nodes, self._causes):
            record.pop(name_of(unit), None)

    def waits(self, unit: Unit) -> bool:
        """Whether another unit of its task is to be settled first."""
        return self._tried.get(unit.task.id, name_of(unit)) != name_of(unit)

    def nodes_of(self, unit: Unit) -> set[str]:
        """Where it has failed."""
        return set(self._nodes.get(name_of(unit), ()))

    def enough(self, unit: Unit, there: Collection[str]) -> bool:
        """Whether it has failed often enough, on nodes enough of those that are in use."""
        name = name_of(unit)
        if name not in self._health or self._health[name].state is not State.DEAD:
            return False
        is_first = unit.task.id not in self._given_up
        nodes = self.nodes_of(unit)
        return not is_first or len(nodes) >= min(NODES, len({*there} | nodes))

    def dangerous(self, unit: Unit) -> bool:
        """Whether a unit of this task took its process along: it is to be played alone."""
        return unit.task.id in self._killers

    def hopeless(self, unit: Unit) -> bool:
        """Whether so many units of its task were given up that this one is not tried."""
        return len(self._given_up.get(unit.task.id, ())) >= UNITS

    def give_up(self, unit: Unit) -> str:
        """Why it is: what its row and the user are told."""
        self.finished(unit)
        cause = self._causes.get(name_of(unit), "")
        given_up = self._given_up.setdefault(unit.task.id, {})
        if not cause:
            reason = next(iter(given_up.values()))
            return (
                f"not played: {UNITS} other seeds of its task were given up, the first for {reason}"
            )
        given_up[name_of(unit)] = cause
        nodes = self._nodes[name_of(unit)]
        node_names = ", ".join(dict.fromkeys(nodes))
        return f"{cause} (failed {len(nodes)} times, on {node_names})"


def given_up(unit: Unit, reason: str) -> list[Episode]:
    """The rows of a unit that is not played to its end: failures of all its arms and branches."""
    return [
        Episode(
            key=unit.key(run),
            split=unit.task.split,
            arm=run.arm if isinstance(run, Branch) else run,
            goal="",
            steps=(),
            success=False,
            stop_reason=StopReason.QUARANTINED,
            final_observation="",
            detail=reason,
            branch=run if isinstance(run, Branch) else None,
        )
        for run in unit.runs
    ]
