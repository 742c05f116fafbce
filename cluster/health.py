"""Whether a node or a unit of work can be used: one small machine of four states.

    HEALTHY -> SUSPECT -> DEAD -> RESTARTING -> HEALTHY

Invariant: nothing but events moves it, and time comes with the event. So whoever is busy is never
taken for dead by a clock alone, and a test plays hours in a moment.
"""

from enum import StrEnum

_MOST_RESTS = 64
"""A rest grows to at most so many times the first one."""


class State(StrEnum):
    """What may be expected of it."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    """It failed, and may go on."""
    DEAD = "dead"
    """It gets no work."""
    RESTARTING = "restarting"
    """It shows whether it works again; one failure and it is dead."""


class Health:
    """Dies of `limit` strikes by different causes, or at once of `die`. After a rest, which lasts
    `rest_s` seconds at first and doubles with every death, it may be tried again.
    """

    def __init__(self, limit: int, rest_s: float = 0.0) -> None:
        self._limit = limit
        self._rest_s = rest_s
        self._strikes = set[str]()
        self._deaths = 0
        self._rested_at = 0.0
        self.state = State.HEALTHY

    @property
    def strikes(self) -> int:
        """Different causes against it since it was last well."""
        return len(self._strikes)

    def strike(self, cause: str, now: float) -> None:
        """It failed once more. A cause that struck before does not count again."""
        if self.state is State.DEAD:
            return
        self._strikes.add(cause)
        if self.state is State.RESTARTING or self.strikes >= self._limit:
            self.die(now)
        else:
            self.state = State.SUSPECT

    def forgive(self, cause: str) -> None:
        """That failure was somebody else's doing."""
        self._strikes.discard(cause)
        if self.state is State.SUSPECT and not self._strikes:
            self.state = State.HEALTHY

    def die(self, now: float) -> None:
        """It is gone for certain. The rest begins."""
        if self.state is not State.DEAD:
            self._rested_at = now + self._rest_s * min(2**self._deaths, _MOST_RESTS)
            self._deaths += 1
            self.state = State.DEAD

    def restart(self, now: float) -> bool:
        """Whether a dead one may be tried again from here on."""
        if self.state is not State.DEAD or now < self._rested_at:
            return False
        self.state = State.RESTARTING
        return True

    def well(self) -> None:
        """It has done what it is there for. The dead stay dead until they are restarted: what they
        had under way says nothing about them.
        """
        if self.state is not State.DEAD:
            self._strikes.clear()
            self.state = State.HEALTHY
