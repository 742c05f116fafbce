"""One error type per boundary: a user can act on a `UsageError`; a `RuntimeFailure` is the
machine's doing.
"""

import errno
import re
import sys
from pathlib import Path


class UsageError(Exception):
    """Bad input. The one-line message names the file, the key, the value and the fix; the CLI exits
    with 2.
    """


class RuntimeFailure(Exception):
    """The run cannot go on (engine, node, network). The message names the first cause; the CLI
    exits with 1.
    """


class StoreFailure(RuntimeFailure):
    """Episodes cannot be written, whichever unit they belong to: playing it again does not help."""


class NodeFailure(RuntimeFailure):
    """This machine lacks what every task needs, for example room on disk; another may have it."""


class Superseded(StoreFailure):
    """Another driver has taken over the run directory: nothing more may be written there."""


class DamagedFile(UsageError):
    """A file that cannot be read as what it should be."""

    def __init__(
        self,
        path: Path,
        problem: str,
        fix: str = "`r2v run` with the run's configuration sets it aside and makes it again",
    ) -> None:
        super().__init__(path, problem, fix)  # the arguments, so that the error can be pickled
        self.path = path
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.fix}"


_FIXES = {
    errno.EROFS: "it is on a read-only file system; choose a place that can be written",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.ENOSPC: "make room there and run the same command again",
    errno.EDQUOT: "make room there and run the same command again",
    errno.ENOENT: "it does not exist; correct the path",
    errno.EISDIR: "it is a folder; give a file",
    errno.EEXIST: "something else has that name; move it elsewhere",
    errno.ENOTDIR: "a part of the path is no folder; correct it",
}


_OF_THE_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
)
"""What an operating system says when it is no matter of the file that was asked for."""


def node_failure(error: BaseException) -> NodeFailure | None:
    """The machine's fault in what was raised; None where there is none."""
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return NodeFailure(explain(error))
    return None


def explain(error: OSError) -> str:
    """An operating system's refusal as one line: the file, what it said, and what to do."""
    file = error.filename2 or error.filename
    problem = error.strerror or " ".join(str(error).split()) or type(error).__name__
    fix = _FIXES.get(error.errno or 0, "")
    parts = [f"{file}: {problem}" if file else problem, fix]
    return "; ".join(part for part in parts if part)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal may obey instead of showing it."""


def harmless(text: str) -> str:
    """Text from outside as a terminal may print it: control characters are spelled out, line ends
    and tabs are kept."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


_said: set[str] = set()


def warn(text: str) -> None:
    """One line that the user should know of, said once."""
    if text not in _said:
        _said.add(text)
        start = "\r" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{start}r2v: warning: {harmless(text)}\n")
        sys.stderr.flush()
