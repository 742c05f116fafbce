"""The environment part of a run's configuration: environment, tasks and splits."""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from r2v_dist.config.base import Section
from r2v_dist.config.places import UserPath, cache_folder, user_path
from r2v_dist.config.program import ProgramConfig
from r2v_dist.config.terminal import TerminalConfig

Split = Literal["train", "validation", "calibration", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "calibration", "test")


LARGEST_SEED = 2**31 - 1
SEED_BLOCK = 1000
"""The most perturbation seeds of a split: each split has a block of so many numbers to itself."""
_MOST_TASKS = 1_000_000
_COOKING_ROOMS = (1, 6, 9, 12)


class GameFamilyConfig(Section):
    """A distribution of generated games; every game draws its settings from the
    inclusive ranges.
    """

    challenge: Literal["custom", "coin_collector", "treasure_hunter", "cooking"] = "custom"
    weight: float = Field(1.0, gt=0, le=1e6)
    settings: dict[str, tuple[int, int] | str] = Field(default_factory=dict)
    """`custom`: rooms, objects, quest_length, and instructions `full` (every step told) or `last`
    (only the last). `coin_collector` and
    `treasure_hunter`: level. `cooking`: recipe, take, go, open, cook, cut, drop.
    """

    @field_validator("settings", mode="before")
    @classmethod
    def _no_truths(cls, settings: object) -> object:
        """A truth value would be taken for 0 or 1."""
        values = settings.values() if isinstance(settings, dict) else ()
        for value in values:
            if isinstance(value, list | tuple) and any(isinstance(part, bool) for part in value):
                raise ValueError(f"{value} is no range; write two whole numbers")
        return settings

    @model_validator(mode="after")
    def _known_settings(self) -> Self:
        bounds = _BOUNDS[self.challenge]
        names = {*bounds, *({"instructions"} if self.challenge == "custom" else ())}
        if not set(self.settings) <= names:
            unknown = sorted(set(self.settings) - names)[0]
            raise ValueError(
                f"settings.{unknown}: challenge {self.challenge} knows only "
                f"{', '.join(sorted(names))}"
            )
        if self.challenge != "cooking" and set(self.settings) != names:
            raise ValueError(
                f"challenge {self.challenge} needs exactly the settings {', '.join(sorted(names))}"
            )
        for name, value in self.settings.items():
            if problem := _setting_problem(name, value, bounds.get(name)):
                raise ValueError(f"settings.{name} = {_written(value)}: {problem}")
        if self.challenge == "cooking" and (problem := _cooking_problem(self.settings)):
            raise ValueError(problem)
        return self


_BOUNDS: dict[str, dict[str, tuple[int, int]]] = {
    "custom": {"rooms": (1, 100), "objects": (1, 200), "quest_length": (1, 100)},
    "coin_collector": {"level": (1, 300)},
    "treasure_hunter": {"level": (1, 30)},
    "cooking": {"recipe": (1, 5), "take": (0, 5), "go": (1, 12)}
    | dict.fromkeys(("open", "cook", "cut", "drop"), (0, 1)),
}
"""Smallest and largest number of each setting that TextWorld makes games of."""


def _setting_problem(
    name: str, value: tuple[int, int] | str, bounds: tuple[int, int] | None
) -> str | None:
    if bounds is None:
        return None if value in ("full", "last") else "either full or last"
    low, high = bounds
    if isinstance(value, str):
        return f"a range of two whole numbers from {low} to {high}, for example [{low}, {low}]"
    if value[0] > value[1]:
        return f"the smaller number comes first; write [{value[1]}, {value[0]}]"
    if value[0] < low or value[1] > high:
        return f"both numbers lie from {low} to {high}"
    if name == "go" and (value[0] != value[1] or value[0] not in _COOKING_ROOMS):
        return f"both numbers are the same one of {', '.join(map(str, _COOKING_ROOMS))}"
    return None


def _cooking_problem(settings: Mapping[str, tuple[int, int] | str]) -> str | None:
    """A game cannot ask to fetch more ingredients than its recipe has."""
    most = int(settings.get("take", (0, 0))[1])
    fewest = int(settings.get("recipe", (1, 1))[0])
    if most > fewest:
        return (
            f"settings.take = {_written(settings['take'])}: at most the smallest recipe, {fewest}"
        )
    return None


def _written(value: tuple[int, int] | str) -> str:
    return value if isinstance(value, str) else f"[{value[0]}, {value[1]}]"


class SplitSizes(Section):
    """Number of tasks in each split."""

    train: int = Field(60, ge=1, le=_MOST_TASKS)
    validation: int = Field(0, ge=0, le=_MOST_TASKS)
    calibration: int = Field(0, ge=0, le=_MOST_TASKS)
    test: int = Field(40, ge=1, le=_MOST_TASKS)


class CodeConfig(Section):
    """Programming tasks. HumanEval+ is the test split and nothing else; MBPP+ trains, validates and
    calibrates.
    """

    source: Literal["evalplus", "shipped"] = "evalplus"
    """`shipped`: the few tasks that come with the project, shared out over the splits; for trying
    things out without data.
    """
    data_dir: str = ""
    """Directory with `humaneval/HumanEvalPlus.jsonl.gz` and `mbppplus/MbppPlus.jsonl.gz`; empty:
    R2V_DATA_DIR, or else a download.
    """
    observation_chars: int = Field(2000, ge=200, le=16_000)
    """Tool output beyond this loses its middle."""
    protocol: Literal["tools", "answers"] = "tools"
    """How an agent works. `tools`: it says write, test, run or submit. `answers`: every answer is a
    solution, as instruct models write it; it is tried on the examples of the task, and handed in
    once they pass, or when the steps are used up.
    """

    @field_validator("data_dir")
    @classmethod
    def _as_a_person_writes_it(cls, value: str) -> str:
        return str(user_path(value)) if value else ""


_OWN = re.compile(r"(?P<place>.+\.py|[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")
_BUILT_IN = re.compile(r"\w+")


def is_own(kind: str) -> bool:
    """Whether a `kind` is in the notation for an environment of a user's own."""
    return _OWN.fullmatch(kind) is not None


def own_parts(kind: str) -> tuple[str, str]:
    """File or module, and attribute, of the environment of a user's own."""
    match = _OWN.fullmatch(kind)
    assert match is not None
    return match["place"], match["attribute"]


class EnvConfig(Section):
    """`textworld`: games generated by `games` and `splits`, or your own by `files`.
    `humaneval_plus`: the tasks that `code` names. `terminal_bench`: those that `terminal` names.
    `program`: agent programs. An environment of your own has `splits` and `options`.
    """

    kind: str = "textworld"
    """A row of `envs.registry`, or an `EnvSpec` of your own: `package.module:ATTRIBUTE` or
    `path/to/file.py:ATTRIBUTE`.
    """
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """For the `make_tasks` of an environment of your own."""
    code: CodeConfig = CodeConfig()
    program: ProgramConfig | None = None
    """`program`: agent programs, and how long they may take."""
    terminal: TerminalConfig = TerminalConfig()
    games: tuple[GameFamilyConfig, ...] = ()
    splits: SplitSizes = SplitSizes()
    files: dict[Split, tuple[UserPath, ...]] = Field(default_factory=dict)
    """Game files (`.z8` with its `.json`) of a split; a split named here is not generated."""
    text: Literal["plain", "house"] = "plain"
    max_steps: int = Field(20, ge=1, le=10_000)
    cache: UserPath = Field(default_factory=lambda: cache_folder("textworld"))
    """Directory of generated games; without it they lie below XDG_CACHE_HOME or ~/.cache."""

    @field_validator("kind")
    @classmethod
    def _names_an_environment(cls, kind: str) -> str:
        if _BUILT_IN.fullmatch(kind):
            return kind
        if not is_own(kind):
            raise ValueError(
                "write the name of an environment, or your own as package.module:ATTRIBUTE or "
                "path/to/file.py:ATTRIBUTE"
            )
        place, attribute = own_parts(kind)
        return f"{user_path(place)}:{attribute}" if place.endswith(".py") else kind

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Without what the reader of YAML remembers of a number."""
        plain: dict[str, JsonValue] = json.loads(json.dumps(options, allow_nan=False))
        return plain

    @model_validator(mode="after")
    def _some_games(self) -> Self:
        if self.options and not is_own(self.kind):
            raise ValueError(
                f"env.options are for an environment of your own; {self.kind} has keys of its "
                f"own: remove them, or change env.kind"
            )
        if self.kind != "textworld":
            if self.games or self.files:
                raise ValueError(
                    "env.games and env.files belong to kind textworld; remove them, or change "
                    "env.kind"
                )
        elif not self.games and set(self.files) < {"train", "test"}:
            raise ValueError("give env.games, or env.files for at least train and test")
        if empty := next(
            (
                split
                for split, files in self.files.items()
                if not files and split in ("train", "test")
            ),
            None,
        ):
            raise ValueError(
                f"files.{empty} = []: a run needs {empty} games; name some, or remove the key"
            )
        return self

    def size(self, split: Split) -> int:
        """Number of tasks of a split."""
        sizes: dict[str, int] = self.splits.model_dump()
        return len(self.files[split]) if split in self.files else sizes[split]

    def content(self) -> dict[str, Any]:
        """The keys that decide what the tasks are; where games and data lie is none of them. Game
        files and the file of an environment count by their names here; `envs.tasks.identity` knows
        their bytes.
        """
        content = self.model_dump(
            mode="json",
            exclude={"cache": True, "files": True, "code": {"data_dir"}, "terminal": True},
        )
        content["kind"] = self.kind.rpartition("/")[2]
        # A key that came later counts only where it is set, so that what was finished before stays
        # finished.
        if not self.options:
            del content["options"]
        if self.code.protocol == CodeConfig().protocol:
            del content["code"]["protocol"]
        if self.program is None:
            del content["program"]
        else:
            content["program"] = self.program.content()
        if self.terminal != TerminalConfig() or self.kind == "terminal_bench":
            content["terminal"] = self.terminal.content()
        return content | {
            "files": {split: [file.name for file in files] for split, files in self.files.items()}
        }
