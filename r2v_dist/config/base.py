"""From a mapping of keys to a validated model; whatever is wrong is one line of a UsageError."""

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from r2v_dist.config.yaml_file import WrittenFloat, WrittenInt, shown
from r2v_dist.errors import UsageError
from r2v_dist.object_storage.object_store import holds_secret

Model = TypeVar("Model", bound=BaseModel)
Item = TypeVar("Item")


class Section(BaseModel):
    """A part of the configuration: immutable, no unknown keys, finite numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers_and_texts(cls, raw: Any) -> Any:
        """A text that looks like a number stays as it was written; a truth value is no number,
        though Python's True is 1.
        """
        texts: dict[str, str] = {}
        for name, value in raw.items() if isinstance(raw, dict) else ():
            field = cls.model_fields.get(name)
            kinds = () if field is None else (field.annotation, *get_args(field.annotation))
            number = int in kinds or float in kinds
            if isinstance(value, bool) and number and bool not in kinds:
                raise ValueError(f"{name} = {str(value).lower()}: write a number")
            if isinstance(value, WrittenInt | WrittenFloat) and str in kinds and not number:
                texts[name] = value.text
        return raw | texts if texts else raw


def distinct(values: tuple[Item, ...]) -> tuple[Item, ...]:
    """A list whose entries differ. Raises ValueError for one that stands twice."""
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ValueError(f"{value} stands twice; keep one")
    return values


def validate(model: type[Model], raw: dict[str, Any], path: Path) -> Model:
    """The mapping as a model; the message names key, value and fix."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{path}: {_explain(model, raw, error)}") from None


def _explain(model: type[BaseModel], raw: Any, error: ValidationError) -> str:
    problem = error.errors()[0]
    location = ".".join(_written(raw, problem["loc"], problem["type"] == "missing"))
    entry = problem["input"]
    value = "(not shown)" if _names_secret(entry) else shown(entry)
    if problem["type"] == "extra_forbidden":
        keys = _keys_at(model, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), keys, n=1, cutoff=0.0)
        fix = f"did you mean {near[0]}?" if near else "remove it"
        return f"unknown key {location} (value {value}); {fix}"
    message = " ".join(problem["msg"].removeprefix("Value error, ").split())
    sentence = f"{message[0].lower()}{message[1:]}"
    if problem["type"] == "missing" or (
        problem["type"] == "value_error" and isinstance(problem["input"], dict)
    ):
        return f"{location or 'config'}: {sentence}"
    return f"{location} = {value}: {sentence}"


def _written(value: Any, location: tuple[int | str, ...], missing: bool) -> list[str]:
    """The keys of a location as they were written, without the types that a union tries.
    `missing`: the last one was not written.
    """
    keys = list[str]()
    for part in location[:-1] if missing else location:
        in_list = isinstance(value, list | tuple) and isinstance(part, int)
        if in_list or (isinstance(value, dict) and part in value):
            value = value[part]
            keys.append(str(part))
    return [*keys, str(location[-1])] if missing else keys


def _names_secret(entry: Any) -> bool:
    if isinstance(entry, dict):
        return any(map(_names_secret, entry.values()))
    if isinstance(entry, list | tuple):
        return any(map(_names_secret, entry))
    return isinstance(entry, str) and "://" in entry and holds_secret(entry)


def _keys_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """The valid keys of the section at `location`."""
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model
        )
    return list(model.model_fields)
