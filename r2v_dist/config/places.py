"""Places on a disk: the type of every path in the configuration, where caches lie, and what is
wrong with a directory.

A place decides where things are kept and never what comes out of a run, so no place is part of a
content hash.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from r2v_dist.errors import UsageError

CACHE_VARIABLE = "XDG_CACHE_HOME"
_LONGEST_NAME = 255
_LONGEST_PATH = 3000
"""Bytes; the system allows 4,096, and a run makes files some folders further down."""


def user_path(text: str) -> Path:
    """A path as a person writes it, `~` included. Raises ValueError for one that no
    file can have.
    """
    if not text.strip():
        raise ValueError("an empty path; name a file or a directory")
    if "\0" in text:
        raise ValueError("a path cannot hold the character NUL")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"nobody here is called {text.split('/')[0]}; write the whole path"
        ) from None
    lengths = [len(os.fsencode(part)) for part in path.parts]
    if max(lengths, default=0) > _LONGEST_NAME:
        raise ValueError(
            f"a name of {max(lengths)} bytes; a file's name has at most {_LONGEST_NAME}"
        )
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ValueError(f"a path of {len(os.fsencode(path))} bytes; use one below {_LONGEST_PATH}")
    return path


def named_path(text: str, key: str) -> Path:
    """A path that does not come out of the configuration. Raises UsageError that names where it
    comes from.
    """
    try:
        return user_path(text)
    except ValueError as error:
        raise UsageError(f"{key} = {text!r}: {error}") from None


def _check_text(value: object) -> object:
    if value is None:
        raise ValueError("no path; YAML reads ~ alone as nothing: write ~/ for your home directory")
    if isinstance(value, str):
        user_path(value)
    return value


def _expand(path: Path) -> Path:
    return user_path(str(path))


UserPath = Annotated[Path, BeforeValidator(_check_text), AfterValidator(_expand)]
"""The type of every path in the configuration: `~` is the home directory."""


def cache_folder(name: str) -> Path:
    """The folder of one cache: below XDG_CACHE_HOME where that is set, below ~/.cache elsewhere."""
    base = os.environ.get(CACHE_VARIABLE, "")
    root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    return root / "r2v" / name


def write_problem(folder: Path) -> str | None:
    """Why files cannot be made below `folder`, which need not exist; None where they can. Nothing
    is made here.
    """
    path = folder.absolute()
    there = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    if not there.is_dir():
        return f"{there} is a file"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written"
    return None


def require_writable(folder: Path, key: str) -> None:
    """Raises UsageError, which names the directory and the key that moves it, where nothing can be
    written.
    """
    if problem := write_problem(folder):
        raise UsageError(f"{key} = {folder}: {problem}; set {key} to a directory of yours")


def make_cache(folder: Path, key: str) -> Path:
    """The folder of a cache, made where there is none. Raises UsageError that names the directory
    and the key.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{key}: {folder} cannot be made ({error.strerror}); set {key} to a directory of yours"
        ) from None
    require_writable(folder, key)
    return folder
