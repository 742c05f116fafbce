"""An environment of a user's own: from `module:ATTRIBUTE` or `path/to/file.py:ATTRIBUTE` to its
`EnvSpec`.

A file is read once, where the run is started. Its text is what decides the keys of a run and what
every runner executes, so that a runner on another machine need not have the file. A module is
imported by its name, and has to be installed, or to lie in the working directory, wherever runners
are.
"""

import hashlib
import importlib
import re
import sys
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from envs.spec import EnvSpec
from r2v_dist.config.env import is_own, own_parts
from r2v_dist.errors import UsageError

_ID = re.compile(r"(?:[\w-]+/)?[\w.-]+-v\d+")
"""What Gymnasium takes for the name of an environment, with a version."""


@dataclass(frozen=True)
class EnvSource:
    """Where an environment comes from, in a form that can be sent to another process: `text` is the
    content of a file, `folder` is where its imports are found beside what is installed.
    """

    kind: str
    text: bytes | None = None
    folder: str = ""

    @classmethod
    def of(cls, kind: str) -> "EnvSource":
        """Reads the file, if it is one. Raises UsageError where it cannot be read."""
        if not is_own(kind):
            return cls(kind)
        place, _ = own_parts(kind)
        if not place.endswith(".py"):
            return cls(kind, None, str(Path.cwd()))
        path = Path(place).absolute()
        try:
            return cls(kind, _bytes_of(path), str(path.parent))
        except FileNotFoundError:
            raise UsageError(f"env.kind = {kind}: there is no file {path}; correct it") from None
        except OSError as error:
            raise UsageError(
                f"env.kind = {kind}: {path} cannot be read ({error.strerror})"
            ) from None

    def load(self) -> EnvSpec:
        """The environment. Raises UsageError, in one line, where it cannot be loaded."""
        _, attribute = own_parts(self.kind)
        module = _module(self)
        if not hasattr(module, attribute):
            names = [name for name, value in vars(module).items() if isinstance(value, EnvSpec)]
            fix = f"it has {', '.join(names)}" if names else f"write {attribute} = EnvSpec(...)"
            raise UsageError(f"env.kind = {self.kind}: there is no {attribute} in it; {fix}")
        spec = getattr(module, attribute)
        if not isinstance(spec, EnvSpec):
            raise UsageError(
                f"env.kind = {self.kind}: {attribute} is of type {type(spec).__name__}; name an "
                f"envs.spec.EnvSpec"
            )
        for name in spec.names:
            if not _ID.fullmatch(name):
                raise UsageError(
                    f"env.kind = {self.kind}: {attribute} has the id {name!r}; write one like "
                    f"mine/Name-v0"
                )
        return spec

    def digest(self) -> str:
        """Names the bytes of the file, or of the module's."""
        text = self.text
        if text is None:
            text = Path(str(_module(self).__file__)).read_bytes()
        return hashlib.sha256(text).hexdigest()


@cache
def _bytes_of(path: Path) -> bytes:
    """What was in a file when this process read it first: an environment does not change in the
    middle of a run.
    """
    return path.read_bytes()


@cache
def _module(source: EnvSource) -> ModuleType:
    """The module of a source, executed once in a process. Raises UsageError for whatever it
    raises.
    """
    place, _ = own_parts(source.kind)
    if source.folder not in sys.path:
        sys.path.append(source.folder)
    try:
        return importlib.import_module(place) if source.text is None else _executed(source, place)
    # A boundary: the text is a user's, and may raise anything.
    except (Exception, SystemExit) as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(
            f"env.kind = {source.kind}: importing it failed: {message}{_line_of(error)}"
        ) from None


def _line_of(error: BaseException) -> str:
    """Which line of the user's raised it, where one was executed."""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename != __file__ and "importlib" not in frame.filename:
            return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _executed(source: EnvSource, place: str) -> ModuleType:
    """A module of the text. It is known by a name of its own, as `dataclasses` and `pickle` ask."""
    text = source.text or b""
    name = f"r2v_own_{hashlib.sha256(text).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = place
    sys.modules[name] = module
    exec(compile(text, place, "exec"), vars(module))
    return module
