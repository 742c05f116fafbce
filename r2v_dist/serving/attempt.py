"""A request until somebody has decided who answers it. Invariant: of every request either the
listeners of the gateway are told, or those of its failures, and never both.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import Scope

from r2v_dist.serving.sending import Answer

TRACE_HEADERS = ("traceparent", "tracestate")
_SHOWN = 100


@dataclass(frozen=True)
class Failure:
    """A request that ended without a decision. `status` is None where its caller went away, `error`
    the code that was told; `model` is empty where no body was read; `started` and `ended` are of
    `time.perf_counter`."""

    path: str
    status: int | None
    error: str
    model: str
    started: float
    ended: float
    carrier: Mapping[str, str]


@dataclass
class Attempt:
    """A request under way, of which `answer` tells the end."""

    scope: Scope
    answer: Answer
    started: float = field(default_factory=time.perf_counter)
    model: str = ""
    decided: bool = False

    def failed(self) -> Failure:
        """What there is to tell where nothing was decided."""
        answer = self.answer
        return Failure(
            self.scope["path"],
            answer.status,
            answer.error or "cancelled",
            self.model[:_SHOWN],
            self.started,
            time.perf_counter(),
            _carrier(self.scope),
        )


def _carrier(scope: Scope) -> dict[str, str]:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    values = {name.decode("latin-1"): value for name, value in headers}
    return {name: values[name].decode("latin-1") for name in TRACE_HEADERS if name in values}
