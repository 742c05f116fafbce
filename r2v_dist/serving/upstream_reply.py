"""What comes back from the teacher's endpoint: an answer that has begun, or why there is none."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from r2v_dist.serving.breaker import Breaker


class TeacherDown(Exception):
    """The endpoint gave no answer: another side may. `kind` names what happened: `connect`,
    `first_byte`, `between_bytes`, `total`, `breaker`, `status` or `broken`. `billed`: it may have
    been at work all the same. `retry_after` is what the caller is told, `asked_s` the wait that the
    endpoint asks for, in seconds."""

    def __init__(
        self,
        kind: str,
        message: str,
        status: int = 503,
        retry_after: str | None = None,
        billed: bool = False,
        asked_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry_after = retry_after
        self.billed = billed
        self.asked_s = asked_s


class TeacherRefused(Exception):
    """The endpoint refuses this request, and would refuse it again."""

    def __init__(self, status: int, error: dict[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(str(error.get("message")))
        self.status = status
        self.error = error
        self.headers = headers


@dataclass
class Reply:
    """An answer that has begun. `payload` is the whole body where it is no stream; `events` gives
    the data of a stream's events, the first of which has come already."""

    headers: Mapping[str, str]
    attempts: int
    payload: dict[str, Any] | None = None
    events: AsyncIterator[bytes] | None = None
    _response: aiohttp.ClientResponse | None = field(default=None, repr=False)
    _breaker: Breaker | None = field(default=None, repr=False)

    def broke(self) -> None:
        """The answer ended too early: the endpoint failed after all."""
        if self._breaker is not None:
            self._breaker.failed()

    def close(self) -> None:
        """End the connection; an answer under way is not waited for."""
        if self._response is not None:
            self._response.close()
