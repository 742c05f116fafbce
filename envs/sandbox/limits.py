"""What a program may use, and how its run ended."""

import resource
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from r2v_dist.config.sandbox import SandboxConfig

_SIGNALS = 128
"""Pending signals and timers: the kernel counts them for all processes of a host user too, so what
one sandbox held, others would lack."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. Memory counts for each process, and for all of them together where
    cgroups are in force.
    """

    wall_s: float = 10.0
    cpu_s: float = 10.0
    """Of each process, rounded up to a whole second."""
    memory_mib: int = 1024
    processes: int = 16
    """Processes and threads, the program's first one included."""
    open_files: int = 64
    file_mib: int = 16
    """Of each file; all files together may have four times as much."""
    output_kib: int = 256
    """Of standard output, and as much of standard error."""

    @staticmethod
    def of(config: SandboxConfig) -> "Limits":
        """The limits of a run configuration."""
        return Limits(**config.model_dump(exclude={"allow_weaker"}))

    def rlimits(self, private_user: bool) -> list[tuple[int, tuple[int, int]]]:
        """Arguments for `setrlimit`. Without a user namespace of its own the program's processes
        cannot be told from its user's.
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
            # 0 would still start the helper of a host that pipes core files; for 1 the kernel does
            # not.
            (resource.RLIMIT_CORE, (1, 1)),
        ]
        if private_user:
            # One more: the interpreter that supervises the program.
            limits.append((resource.RLIMIT_NPROC, (self.processes + 1, self.processes + 1)))
            limits.append((resource.RLIMIT_SIGPENDING, (_SIGNALS, _SIGNALS)))
        return limits


class Ending(StrEnum):
    """Why a run ended. It describes what the program did and is never proof of anything: a program
    can end as it likes.
    """

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
    """The exit status; minus the signal's number for SIGNALLED and the like; None where the sandbox
    ended the program.
    """
    stdout: bytes
    """At most `output_kib`; decode it with errors="replace"."""
    stderr: bytes
    wall_s: float
    """From handing over the program to its end."""
