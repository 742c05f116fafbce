"""The first cause of a Ray error, in one line without colour codes, and as an error of ours."""

import re
from collections.abc import Iterator
from typing import TypeVar

from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.failures import CollectorLost, RunnerDied, UnitBroken, UnitFailed
from r2v_dist.errors import DamagedFile, RuntimeFailure, StoreFailure, UsageError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


Cause = TypeVar("Cause", bound=BaseException)


def first_cause(error: BaseException) -> str:
    """The innermost reason of a Ray error in one line, without actor traces and colours."""
    cause = _innermost(error)
    lines = [line.strip() for line in _COLOUR.sub("", str(cause)).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    # Ray's own errors end in the text of the error that caused them; others do not name their type.
    return (last if isinstance(cause, RayError) else f"{type(cause).__name__}: {last}")[:500]


def cause_of(error: BaseException, kind: type[Cause]) -> Cause | None:
    """The error of a kind that led to another one, in this process or in an actor; None without."""
    # What an actor raised is of its own kind and of Ray's at once; the bare one has no traces.
    bare = (cause for cause in _causes(error) if not isinstance(cause, RayError))
    return next((cause for cause in bare if isinstance(cause, kind)), None)


def _innermost(error: BaseException) -> BaseException:
    """The error that caused the others."""
    return list(_causes(error))[-1]


def usage_error(error: BaseException) -> UsageError | None:
    """What our own code refused inside an actor, None for other failures. It is refused on every
    machine and every try.
    """
    if (damaged := cause_of(error, DamagedFile)) is not None:
        return damaged  # the driver sets the file aside
    if (cause := cause_of(error, UsageError)) is not None:
        return UsageError(str(cause))
    # Of an error in a constructor Ray keeps the text only.
    if isinstance(error, RayActorError) and error.actor_init_failed:
        _, marker, message = first_cause(error).partition(
            f"{UsageError.__module__}.{UsageError.__name__}: "
        )
        return UsageError(message) if marker else None
    return None


def died(error: RayError) -> bool:
    """Whether an actor's process is gone; an error that an actor raised leaves it alive."""
    return isinstance(error, RayActorError) and not isinstance(error, RayTaskError)


def unit_failure(error: RayError) -> UsageError | RuntimeFailure:
    """What came of a unit, as `actors.runners` names it."""
    if (full := cause_of(error, StoreFailure)) is not None:
        return full
    if (refusal := usage_error(error)) is not None:
        return refusal
    if isinstance(loss := _innermost(error), CollectorLost):
        return CollectorLost(str(loss))
    if (broken := cause_of(error, UnitBroken)) is not None:
        return UnitBroken(str(broken))
    if isinstance(error, RayActorError) and died(error):
        return RunnerDied(first_cause(error), starting=error.actor_init_failed)
    return UnitFailed(first_cause(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        inner = getattr(cause, "cause", None) or cause.__cause__
        cause = inner if inner is not cause else None
