"""What a task's own file says, read with its bounds. A value that cannot be used is one line that
names file, key, value and what to write instead.
"""

import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from envs.terminal_bench.machine import File
from r2v_dist.errors import UsageError

_MOST_S = 1e9
_PARSERS: Mapping[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".yaml": yaml.safe_load}


def parsed(task: str, file: str, content: File) -> Any:
    """What a file holds, by the ending of its name. Raises UsageError."""
    try:
        return _PARSERS[file[file.rindex(".") :]](content.content.decode("utf-8"))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"task {task}: {file} cannot be read ({reason}); correct it") from None


class Described:
    """The keys of one file of a task. Raises UsageError."""

    def __init__(self, task: str, file: str, keys: Mapping[str, Any], above: str = "") -> None:
        self._task = task
        self._file = file
        self._keys = {str(key): value for key, value in keys.items()}
        self._above = above

    @classmethod
    def read(cls, task: str, file: str, content: File) -> "Described":
        """The file, by the ending of its name."""
        keys = parsed(task, file, content)
        if not isinstance(keys, dict):
            raise UsageError(f"task {task}: {file} has no keys; correct it")
        return cls(task, file, keys)

    def table(self, key: str) -> "Described":
        """A section, empty where there is none."""
        value = self._keys.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "write a section with keys")
        return Described(self._task, self._file, value or {}, f"{self._above}{key}.")

    def seconds(self, key: str, otherwise: float) -> float:
        """A positive number."""
        value = self._keys.get(key)
        if value is None:
            return otherwise
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not 0 < value < _MOST_S:
            raise self.wrong(key, f"write a number of seconds, such as {otherwise}")
        return float(value)

    def text(self, key: str) -> str:
        """A word or a text, empty where there is none."""
        value = self._keys.get(key)
        if isinstance(value, dict | list):
            raise self.wrong(key, "write a text")
        return "" if value is None else str(value)

    def flag(self, key: str, otherwise: bool = False) -> bool:
        """True or false."""
        value = self._keys.get(key, otherwise)
        if not isinstance(value, bool):
            raise self.wrong(key, "write true or false")
        return value

    def texts(self, key: str) -> dict[str, str]:
        """A section of texts by name, such as environment variables."""
        return {name: self.table(key).text(name) for name in self.table(key).names()}

    def listed(self, key: str) -> list[Any]:
        """A list, empty where there is none."""
        value = self._keys.get(key)
        if value is not None and not isinstance(value, list):
            raise self.wrong(key, "write a list")
        return value or []

    def value(self, key: str) -> Any:
        """What is written, whatever it is; None where nothing is."""
        return self._keys.get(key)

    def names(self) -> list[str]:
        """The keys that there are."""
        return list(self._keys)

    def wrong(self, key: str, instead: str) -> UsageError:
        """That a key's value cannot be used, and what to write instead."""
        text = " ".join(str(self._keys.get(key)).split())[:80]
        return UsageError(
            f"task {self._task}: {self._file}: {self._above}{key} = {text}: {instead}"
        )
