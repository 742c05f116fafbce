"""What a terminal may use."""

import resource
from dataclasses import dataclass

_OPEN_FILES = 1024
_PENDING_SIGNALS = 256


@dataclass(frozen=True)
class Size:
    """What a machine may use, all its processes together."""

    memory_mib: int = 512
    disk_mib: int = 128
    processes: int = 128

    def rlimits(self, grouped: bool) -> list[tuple[int, tuple[int, int]]]:
        """Limits of each process. Memory is among them where no control group counts that of all
        together, as it also counts what is reserved and not used.
        """
        disk, memory = self.disk_mib << 20, self.memory_mib << 20
        alone = [] if grouped else [(resource.RLIMIT_DATA, (memory, memory))]
        return [
            *alone,
            (resource.RLIMIT_FSIZE, (disk, disk)),
            (resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES)),
            # With 0 the kernel still starts the host's helper for core files; with 1 it does not.
            (resource.RLIMIT_CORE, (1, 1)),
            (resource.RLIMIT_NPROC, (self.processes + 1, self.processes + 1)),
            (resource.RLIMIT_SIGPENDING, (_PENDING_SIGNALS, _PENDING_SIGNALS)),
        ]
