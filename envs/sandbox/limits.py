"""What a program may use, and how its run ended."""

import resource
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from r2v_dist.config.sandbox import SandboxConfig

_SIGNALS = 128
"""Pending signals and timers. The kernel counts them for all processes of a host user, so a sandbox
without this limit could take them from other sandboxes."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. Memory counts for each process, and for all of them together where
    cgroups are in force.
    """

    wall_s: float = 10.0
    cpu_s: float = 10.0
    """Processor time of each process, rounded up to a whole second."""
    memory_mib: int = 1024
    processes: int = 16
    """Processes and threads, the program's first one included."""
    open_files: int = 64
    file_mib: int = 16
    """Size of the largest file; the total of all files is four times this."""
    output_kib: int = 256
    """Size of standard output; standard error has the same limit."""

    @staticmethod
    def of(config: SandboxConfig) -> "Limits":
        """The limits of a run configuration."""
        return Limits(**config.model_dump(exclude={"allow_weaker"}))

    def rlimits(self, private_user: bool) -> list[tuple[int, tuple[int, int]]]:
        """Arguments for `setrlimit`. Limits that the kernel counts by user are set only with
        `private_user`, a user namespace of the sandbox alone.
        """
        cpu_s = ceil(self.cpu_s)
        memory = self.memory_mib << 20
        file = self.file_mib << 20
        limits = [
            # The second signal, a second later, cannot be ignored.
            (resource.RLIMIT_CPU, (cpu_s, cpu_s + 1)),
            (resource.RLIMIT_AS, (memory, memory)),
            (resource.RLIMIT_FSIZE, (file, file)),
            (resource.RLIMIT_NOFILE, (self.open_files, self.open_files)),
            # With 0 the kernel still starts the host's helper for core files; with 1 it does not.
            (resource.RLIMIT_CORE, (1, 1)),
        ]
        if private_user:
            # One more: the interpreter that supervises the program.
            limits.append((resource.RLIMIT_NPROC, (self.processes + 1, self.processes + 1)))
            limits.append((resource.RLIMIT_SIGPENDING, (_SIGNALS, _SIGNALS)))
        return limits


class Ending(StrEnum):
    """Why a run ended. It proves nothing about the program, which can choose its ending."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    CPU_LIMIT = "cpu_limit"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    SIGNALLED = "signalled"


@dataclass(frozen=True)
class Completed:
    """A run that is over: no process of it is left."""

    ending: Ending
    returncode: int | None
    """The exit status, or minus the number of the signal that ended the program; None where the
    sandbox ended it.
    """
    stdout: bytes
    """At most `output_kib`; decode it with errors="replace"."""
    stderr: bytes
    wall_s: float
    """Seconds from sending the program to its end."""
