"""What a back end offers an episode: a machine with a file system, programs and one terminal.

`sandbox.machine` and `docker.machine` implement it. A machine that ended by itself raises
`MachineGone`, which is the outcome of an episode and no failure of ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class MachineGone(Exception):
    """The machine ended in the middle of an episode: out of memory, or destroyed by a command."""


@dataclass(frozen=True)
class File:
    """Content and mode of a file that is put into a machine."""

    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Ran:
    """A program that ran without a terminal: its exit code (None where it was stopped at its
    deadline) and the first bytes of its output.
    """

    code: int | None
    output: bytes


class Came(StrEnum):
    """How the terminal came to rest after an action."""

    ENDED = "ended"
    WAITS = "waits"
    """A program waits for input."""
    STOPPED = "stopped"
    """The command was interrupted at its deadline."""
    SHELL_ENDED = "shell ended"
    """The command ended its shell; a new one has started."""
    SHELL_KILLED = "shell killed"
    """The command could not be interrupted, so its shell was killed; a new one has started."""


@dataclass(frozen=True)
class Shown:
    """What an action brought about: raw bytes of the terminal (its middle left out where there were
    many), the exit code (None while a program waits), the shell's working directory, and how many
    files changed (None where there are too many to say).
    """

    output: bytes
    came: Came
    code: int | None
    folder: str
    changed: int | None


class Machine(Protocol):
    """One machine, for one episode after the other of one task."""

    built: bool
    """Whether it begins with what the task's Dockerfile says."""

    def put(self, files: Mapping[str, File]) -> None:
        """Write files, by absolute path."""
        ...

    def make_folders(self, paths: Sequence[str]) -> None:
        """Make folders."""
        ...

    def run(
        self, argv: Sequence[str], folder: str, environment: Mapping[str, str], wait_s: float
    ) -> Ran:
        """Run a program without a terminal, to its end or the deadline."""
        ...

    def open_shell(self, folder: str, environment: Mapping[str, str]) -> None:
        """Start the terminal's shell."""
        ...

    def command(self, text: str, wait_s: float) -> Shown:
        """Give the shell a command; where a program waits for input, type it as a line."""
        ...

    def keys(self, typed: bytes, wait_s: float) -> Shown:
        """Type raw keys."""
        ...

    def snapshot(self) -> bytes | None:
        """The state of the machine, None where it has more than files and one idle shell."""
        ...

    def restore(self, snapshot: bytes) -> None:
        """Go back to a snapshot of this machine, or of another one of the same task."""
        ...

    def stamps(self, folder: str) -> dict[str, tuple[int, int]]:
        """Of everything in a folder, and of what `mend` looks after, what is equal at two times
        only if nobody touched it in between.
        """
        ...

    def holds(self, files: Mapping[str, File]) -> bool:
        """Whether these files are there as they were put, and the system as `mend` left it."""
        ...

    def read(self, path: str) -> bytes | None:
        """A small plain file."""
        ...

    def programs(self) -> list[str]:
        """The command line of every program but the terminal's idle shell."""
        ...

    def mend(self) -> None:
        """Undo what would let a program of the system run somebody else's code."""
        ...

    def freeze(self) -> None:
        """Stop every program where it is."""
        ...

    def thaw(self) -> None:
        """Let them go on."""
        ...

    def end_processes(self) -> None:
        """End every program, the shell included."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
