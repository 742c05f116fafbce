"""From a YAML file and `key.path=value` overrides to a validated model; whatever is wrong is one line of a UsageError."""

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from r2v_dist.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A part of the configuration: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


def read_mapping(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The file's keys with the overrides applied; the values of overrides are YAML."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such config; the shipped ones are in configs/") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: a run config is a mapping of keys")
    for override in overrides:
        _apply(raw, override)
    return raw


def validate(model: type[Model], raw: dict[str, Any], path: Path) -> Model:
    """The mapping as a model; the message names key, value and fix."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{path}: {_explain(model, error)}") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise UsageError(f"override {override!r}: write key=value, for example seed=1")
    *parents, last = key.split(".")
    section = raw
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise UsageError(f"override {override!r}: {parent} is not a section")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"override {override!r}: the value is not YAML") from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _keys_at(model, first["loc"][:-1]), n=1, cutoff=0.0)
        return f"unknown key {location} (value {first['input']!r}); {f'did you mean {near[0]}?' if near else 'remove it'}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("missing", "value_error"):
        return f"{location or 'config'}: {message[0].lower()}{message[1:]}"
    return f"{location} = {first['input']!r}: {message[0].lower()}{message[1:]}"


def _keys_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """The valid keys of the section at `location`."""
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(model.model_fields)
