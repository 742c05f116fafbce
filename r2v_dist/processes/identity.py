"""Whether a process that wrote its identity down is still there, as far as this machine can tell.

A process is known by its machine, its id and the time of its start, so that neither a reused id
nor the same id in another container is taken for it.
"""

from pathlib import Path

_STATE, _START = 0, 19
"""Places in /proc/<pid>/stat, counted after the name of the program."""


def machine() -> str:
    """This boot of this machine, and the process ids that are seen here; empty where the system
    does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def started(pid: int) -> str:
    """When a process of this machine was started, in clock ticks after boot; empty where there is
    none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[_STATE] in "ZX" else fields[_START]
