"""What a caller may ask of the gateway itself: the body's `r2v` object, headers, and model names.

Invariant: an unknown key, or two places that say different things, is an error; nothing is guessed.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from r2v_dist.serving.errors import ApiError, invalid

Side = Literal["auto", "slm", "teacher"]
ALIASES: dict[str, Side] = {"r2v": "auto", "r2v-slm": "slm", "r2v-teacher": "teacher"}
"""Names under which the gateway is asked, beside `r2v@OPERATING_POINT`."""
SESSION_HEADERS = ("x-r2v-session", "x-session-id", "x-claude-code-session-id")
"""Headers that name a conversation; the first that is there counts."""
_HEADERS = {
    "x-r2v-operating-point": "operating_point",
    "x-r2v-force": "route",
    "x-r2v-dry-run": "dry_run",
    "x-r2v-max-teacher-calls": "max_teacher_calls",
    "x-r2v-fallback": "fallback",
}


@dataclass(frozen=True)
class Controls:
    """The `r2v` object of a request. None leaves a matter to the gateway."""

    operating_point: str | None = None
    threshold: float | None = None
    route: Side | None = None
    dry_run: bool | None = None
    fallback: bool | None = None
    max_teacher_calls: int | None = None
    max_steps: int | None = None
    goal: str | None = None
    """The goal, where the first user message does not begin with `Goal: `."""
    seeds: Mapping[str, int] | None = None
    """Sampling seeds by role (`slm`, `teacher`)."""


_NAMES = tuple(field.name for field in fields(Controls))


def read_controls(body: Mapping[str, Any], headers: Mapping[str, str]) -> Controls:
    """What body, headers and model name ask for together. Raises ApiError 400 and, for an unknown
    model, 404."""
    r2v_object = body.get("r2v")
    if r2v_object is not None and not isinstance(r2v_object, dict):
        raise invalid("r2v must be an object", "r2v")
    values: dict[str, Any] = {}
    for name, value in (r2v_object or {}).items():
        if name not in _NAMES:
            near = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.0)[0]
            raise invalid(f"unknown key r2v.{name}; did you mean {near}?", f"r2v.{name}")
        if value is not None:
            values[name] = _checked(name, value)
    for header, name in _HEADERS.items():
        if header in headers:
            _join(values, name, _of_text(name, headers[header], header), header)
    for name, value in _of_model(body.get("model")).items():
        _join(values, name, value, "model")
    if "threshold" in values and "operating_point" in values:
        raise invalid("give r2v.threshold or an operating point, not both", "r2v.threshold")
    return Controls(**values)


def _of_model(model: object) -> dict[str, Any]:
    if not isinstance(model, str):
        raise invalid("model must be a string", "model")
    if model in ALIASES:
        return {} if model == "r2v" else {"route": ALIASES[model]}
    name, at, point = model.partition("@")
    if name == "r2v" and at and point:
        return {"operating_point": point}
    raise unknown_model(model)


def unknown_model(model: str) -> ApiError:
    """The error for a model that the gateway does not have."""
    names = ", ".join(ALIASES)
    message = f"the model {model[:100]!r} does not exist; there are {names} and r2v@OPERATING_POINT"
    return ApiError(404, message, param="model", code="model_not_found")


def _join(values: dict[str, Any], name: str, value: Any, place: str) -> None:
    if values.setdefault(name, value) != value:
        message = f"{place} says {name} = {value}, another place {values[name]}; say it once"
        raise invalid(message, f"r2v.{name}")


def _of_text(name: str, text: str, header: str) -> Any:
    """The value of a header."""
    if name in ("dry_run", "fallback"):
        if text.lower() not in ("true", "false", "1", "0"):
            raise invalid(f"{header} = {text[:40]!r}: write true or false", header)
        return text.lower() in ("true", "1")
    if name == "max_teacher_calls":
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise invalid(f"{header} = {text[:40]!r}: write a whole number", header)
        return int(text)
    return _checked(name, text)


_MOST = 2**31
"""What a column of the log holds."""


def _checked(name: str, value: Any) -> Any:
    """The value, if it is of the right kind."""
    problem = ""
    if name in ("operating_point", "goal"):
        problem = "" if isinstance(value, str) else "a string"
    elif name == "route":
        problem = "" if value in get_args(Side) else "auto, slm or teacher"
    elif name in ("dry_run", "fallback"):
        problem = "" if isinstance(value, bool) else "true or false"
    elif name == "threshold":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and abs(value) < _MOST:
            return float(value)
        problem = "a number" if not number else "a number below 2^31"
    elif name == "seeds":
        problem = _seeds_problem(value)
    elif not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST:
        problem = "a whole number from 0 to 2^31 - 1"
    elif name == "max_steps" and value == 0:
        problem = "at least 1"
    if problem:
        raise invalid(f"r2v.{name} must be {problem}", f"r2v.{name}")
    return value


def _seeds_problem(value: object) -> str:
    if not isinstance(value, dict) or not set(value) <= {"slm", "teacher"}:
        return "an object with the keys slm and teacher"
    if not all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in value.values()):
        return "an object of seeds from 0 to 2^63 - 1"
    return ""
