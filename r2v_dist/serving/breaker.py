"""Leaves an endpoint alone that keeps failing. Invariant: after the rest exactly one request tries
it; the others are turned away until that one has an answer."""

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Counts failures in a row. `clock` gives seconds."""

    def __init__(
        self, failures: int, rest_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = failures
        self._rest_s = rest_s
        self._clock = clock
        self._failures = 0
        self._opened: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """Whether requests pass (`closed`), none does, or one may try."""
        if self._opened is None:
            return "closed"
        return "half_open" if self._clock() - self._opened >= self._rest_s else "open"

    @property
    def rest_s(self) -> float:
        """Seconds until one may try."""
        if self._opened is None:
            return 0.0
        return max(0.0, self._opened + self._rest_s - self._clock())

    def enter(self) -> bool:
        """Whether a request may be sent now. One that may tells afterwards how it went."""
        state = self.state
        if state == "half_open" and not self._probing:
            self._probing = True
            return True
        return state == "closed"

    def succeeded(self) -> None:
        """The endpoint answered, be it with a refusal."""
        self._failures = 0
        self._opened = None
        self._probing = False

    def failed(self) -> None:
        """The endpoint did not answer."""
        self._failures += 1
        self._probing = False
        if self._opened is not None or self._failures >= self._most:
            self._opened = self._clock()

    def gave_up(self) -> None:
        """Whoever asked went away before there was an answer: that says nothing."""
        self._probing = False
