"""What rollouts have shown of every node: where units fail that succeed elsewhere.

Invariant: a node is excluded for failures of three units that succeeded on another node, never for
a task that fails wherever it is played. Until it is known whose fault a failure was, a node that
shows nothing else gets no more than a few units, so that one on which everything fails at once does
not eat the queue. The last node is never excluded.
"""

from cluster.health import Health, State
from r2v_dist.episodes import Unit

DOUBTS = 3
"""Failures of different units after which a node gets no more work until it is known why."""
_UNLIMITED = 10**9

UnitName = tuple[str, int | None]


def name_of(unit: Unit) -> UnitName:
    """What a unit is called within its stage."""
    return (unit.task.id, unit.z)


class Nodes:
    """The nodes of a run, by the names its runners give them; an excluded one rests for `rest_s`
    seconds before it is tried again.
    """

    def __init__(self, rest_s: float) -> None:
        self._rest_s = rest_s
        self._health: dict[str, Health] = {}
        self._doubts: dict[str, dict[UnitName, str]] = {}
        """Units that failed on a node since it last finished one, with the cause."""
        self._causes: dict[str, str] = {}
        self._proven = set[str]()
        self._failed_on: dict[UnitName, set[str]] = {}
        """Nodes on which a unit failed."""

    def failed(self, node: str, unit: UnitName, cause: str, now: float) -> None:
        """A unit did not come to an end there, by no fault of a model or of the collector."""
        self._doubts.setdefault(node, {})[unit] = cause
        self._causes[node] = cause
        self._failed_on.setdefault(unit, set()).add(node)
        if self._of(node).state is State.RESTARTING:
            self._of(node).die(now)

    def finished(self, node: str, unit: UnitName, now: float) -> None:
        """A unit was finished there: a strike against every other node on which it failed, unless
        its task fails here too.
        """
        self._proven.add(node)
        self._doubts.pop(node, None)
        if self._of(node).state is State.RESTARTING:
            self._of(node).well()
            self.forget(node)  # what failed there before counts no more
        elsewhere = self._failed_on.pop(unit, set())
        if self.state(node) is State.DEAD or node in elsewhere or self._failed_task(node, unit[0]):
            return
        for failed_node in elsewhere:
            self._of(failed_node).strike(str(unit), now)

    def absolve(self, unit: UnitName) -> None:
        """What became of this unit was its own doing."""
        self._failed_on.pop(unit, None)
        for node, doubts in self._doubts.items():
            doubts.pop(unit, None)
            self._of(node).forgive(str(unit))

    def at_fault(self, unit: UnitName) -> bool:
        """Whether it failed on a node that has finished another one since."""
        nodes = self._failed_on.get(unit, ())
        return any(unit not in self._doubts.get(node, {}) for node in nodes)

    def doubts(self, node: str) -> dict[UnitName, str]:
        """Units that failed there for a reason that may be the node's, with their causes."""
        doubts = self._doubts.get(node, {})
        return {unit: cause for unit, cause in doubts.items() if not self.at_fault(unit)}

    def in_doubt(self) -> list[str]:
        """Nodes of which it is not known whether they work."""
        return [
            node for node in self._doubts if self.doubts(node) and self.state(node) != State.DEAD
        ]

    def complaint(self) -> str:
        """What failed where nothing shows that the node works."""
        doubts = {node: self.doubts(node) for node in self.in_doubt()}
        if not doubts:
            return "no env runner is free for the units that are left"
        node, units = max(doubts.items(), key=lambda item: len(item[1]))
        names = ", ".join(f"{task} z={z}" for task, z in [*units][:3])
        return (
            f"{len(units)} units fail on {node}, where nothing has been finished since ({names}): "
            f"{next(iter(units.values()))}"
        )

    def forget(self, node: str) -> None:
        """Nothing that failed there counts any more."""
        self._doubts.pop(node, None)
        for nodes in self._failed_on.values():
            nodes.discard(node)

    def room(self, node: str, alone: bool) -> int:
        """How many units may be under way there. `alone`: no other node plays."""
        if self.state(node) is State.DEAD:
            return 0
        if self.state(node) is State.RESTARTING:
            return 1
        doubts = self.doubts(node)
        if alone:
            return 0 if len({task for task, _ in doubts}) >= DOUBTS else _UNLIMITED
        return _UNLIMITED if node in self._proven and not doubts else max(0, DOUBTS - len(doubts))

    def state(self, node: str) -> State:
        """HEALTHY for one that nothing is known of."""
        return self._health[node].state if node in self._health else State.HEALTHY

    def cause(self, node: str) -> str:
        """What the last unit that failed there failed with."""
        return self._causes[node]

    def excluded(self) -> list[str]:
        """Nodes that get no work."""
        return [node for node, health in self._health.items() if health.state is State.DEAD]

    def probe(self, now: float) -> str | None:
        """An excluded node that has rested, and is to show with one unit whether it works again."""
        return next((node for node, health in self._health.items() if health.restart(now)), None)

    def _failed_task(self, node: str, task: str) -> bool:
        return any(node in nodes for (name, _), nodes in self._failed_on.items() if name == task)

    def _of(self, node: str) -> Health:
        return self._health.setdefault(node, Health(DOUBTS, self._rest_s))
