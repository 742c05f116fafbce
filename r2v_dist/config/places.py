"""Paths: the type of every path in the configuration, the folders of caches, and checks of a
directory.

Invariant: a path never decides an outcome of a run, so no path is part of a content hash.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from r2v_dist.errors import UsageError
from r2v_dist.object_storage import mirror as mirrors
from r2v_dist.object_storage.object_store import address_problem, holds_secret

CACHE_VARIABLE = "XDG_CACHE_HOME"
_LONGEST_NAME = 255
_LONGEST_PATH = 3000
"""Bytes; the system allows 4,096, and the files of a run lie some folders below its directory."""


def user_path(text: str) -> Path:
    """A path as a person writes it, where `~` is the home directory. Raises ValueError for a path
    that no file can have.
    """
    if not text.strip():
        raise ValueError("an empty path; name a file or a directory")
    if "\0" in text:
        raise ValueError("a path cannot hold the character NUL")
    if "://" in text:
        # A path of it would be a folder of that name, here or where a cluster removes it again.
        raise ValueError("an address, which only the run_dir of a run may be; write a path")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"nobody here is called {text.split('/')[0]}; write the whole path"
        ) from None
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > _LONGEST_NAME:
        raise ValueError(f"a name of {longest} bytes; a file's name has at most {_LONGEST_NAME}")
    length = len(os.fsencode(path))
    if length > _LONGEST_PATH:
        raise ValueError(f"a path of {length} bytes; use one below {_LONGEST_PATH}")
    return path


def named_path(text: str, key: str) -> Path:
    """A path from outside the configuration, for example an argument. Raises UsageError that names
    its source, `key`.
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


def run_folder(text: str, readers: bool = False) -> Path:
    """The folder of a run that is named by a path or an address: for an address this node's mirror
    of it. Raises ValueError for what is neither.

    Args:
        readers: take a mirror beside that of drivers, so that who looks at a run disturbs none.
    """
    if text.startswith("file://"):
        return user_path(text.removeprefix("file://"))
    if "://" not in text:
        return user_path(text)
    if holds_secret(text):
        raise ValueError(
            "an address with a key or a password; put credentials into the environment"
        )
    if problem := address_problem(text):
        raise ValueError(problem)
    name = mirrors.folder_name(text)
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"an address of {len(name)} bytes; use one below {_LONGEST_NAME}")
    return cache_folder("read" if readers else "runs") / name


def _check_run_folder(value: object) -> object:
    if isinstance(value, str) and "://" in value:
        return run_folder(value)
    return _check_text(value)


RunPlace = Annotated[
    Path,
    BeforeValidator(_check_run_folder),
    AfterValidator(_expand),
    PlainSerializer(mirrors.shown, return_type=str, when_used="json"),
]
"""The type of a run directory: a path, or an address, which stands for this node's mirror of it."""


def cache_folder(name: str) -> Path:
    """The folder of one cache: below XDG_CACHE_HOME where that is set, below ~/.cache elsewhere."""
    base = os.environ.get(CACHE_VARIABLE, "")
    root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    return root / "r2v" / name


def write_problem(folder: Path) -> str | None:
    """Why files cannot be made below `folder`, which need not exist; None where they can. The check
    makes no file.
    """
    path = folder.absolute()
    existing = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    if not existing.is_dir():
        return f"{existing} is a file"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} cannot be written"
    return None


def require_writable(folder: Path, key: str) -> None:
    """Raises UsageError, which names the directory and its configuration key, where no file can be
    written.
    """
    problem = write_problem(folder)
    if problem is None:
        return
    setting = CACHE_VARIABLE if mirrors.of(folder) else key
    raise UsageError(
        f"{key} = {mirrors.shown(folder)}: {problem}; set {setting} to a directory of yours"
    )


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
