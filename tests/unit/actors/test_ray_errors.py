"""What an actor refused is told from what its machine did."""

from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from actors.ray_errors import first_cause, usage_error
from r2v_dist.errors import DamagedFile, RuntimeFailure, UsageError


def raised(cause: Exception) -> RayTaskError:
    """As `ray.get` raises what a task raised."""
    text = f"ray::run()\n  File ...\n{type(cause).__module__}.{type(cause).__name__}: {cause}"
    error: RayTaskError = RayTaskError("run", text, cause).as_instanceof_cause()
    return error


def in_constructor(cause: Exception) -> ActorDiedError:
    text = f"ray::__init__()\n  File ...\n{type(cause).__module__}.{type(cause).__name__}: {cause}"
    return ActorDiedError(RayTaskError("__init__", text, cause))


@pytest.mark.parametrize("how", [raised, in_constructor])
def test_a_refusal_keeps_its_type_and_its_line(how: "type[RayError]") -> None:
    found = usage_error(how(UsageError("perturb.rates: unknown operator typo")))
    assert type(found) is UsageError
    assert str(found) == "perturb.rates: unknown operator typo"


def test_a_damaged_file_keeps_its_path() -> None:
    found = usage_error(raised(DamagedFile(Path("rollouts/a.arrow"), "is cut")))
    assert isinstance(found, DamagedFile)
    assert (found.path, found.problem) == (Path("rollouts/a.arrow"), "is cut")


@pytest.mark.parametrize("how", [raised, in_constructor])
def test_other_failures_are_no_refusals(how: "type[RayError]") -> None:
    error = how(RuntimeFailure("the engine did not answer"))
    assert usage_error(error) is None
    assert "the engine did not answer" in first_cause(error)


def test_a_process_that_died_refused_nothing() -> None:
    assert usage_error(ActorDiedError()) is None
