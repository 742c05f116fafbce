"""Teacher calls that may be made. Invariant: what is reserved and spent together never exceeds a
limit, because a unit is reserved before the call, in one turn of the event loop."""

from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

_REMEMBERED = 1_000_000


class BudgetSpent(Exception):
    """No teacher call is left. The message names the limit."""


@dataclass(frozen=True)
class Limit:
    """At most `most` calls of what `name` names, of which `spent` are not counted here. Without a
    name nothing is counted: `spent` says all."""

    name: str
    most: int
    spent: int = 0


class Budgets:
    """Counts calls by name."""

    def __init__(self) -> None:
        self._used: LRUCache[str, int] = LRUCache(_REMEMBERED)

    def used(self, name: str) -> int:
        """Calls that were made or are under way."""
        count: int = self._used.get(name, 0)
        return count

    def reserve(self, limits: Sequence[Limit]) -> None:
        """Take one unit of every limit, or of none. Raises BudgetSpent."""
        for limit in limits:
            if self.used(limit.name) + limit.spent >= limit.most:
                whose = limit.name.partition(":")[0] or "conversation"
                raise BudgetSpent(f"{limit.most} teacher calls a {whose}")
        for limit in _counted(limits):
            self._used[limit.name] = self.used(limit.name) + 1

    def restore(self, name: str) -> None:
        """Count a call that an earlier gateway made."""
        self._used[name] = self.used(name) + 1

    def give_back(self, limits: Sequence[Limit]) -> None:
        """Return the units of a call that was certainly not made."""
        for limit in _counted(limits):
            self._used[limit.name] = max(0, self.used(limit.name) - 1)


def conversation_limit(caller: str, session: str) -> str:
    """The name of the limit of a conversation that its caller names."""
    return f"conversation:{caller}:{session}"


def _counted(limits: Sequence[Limit]) -> list[Limit]:
    return [limit for limit in limits if limit.name]
