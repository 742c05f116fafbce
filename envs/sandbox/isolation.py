"""Which isolation is in force, found by starting a sandbox and looking at it from inside."""

import functools
import platform
import shutil
from dataclasses import dataclass
from typing import Literal

from envs.sandbox import cgroups, seccomp
from envs.sandbox import deadline as patience
from envs.sandbox.limits import Ending, Limits
from envs.sandbox.privileges import starter
from envs.sandbox.process import Box
from r2v_dist.errors import RuntimeFailure

_LOOK = """
import os
names = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp:")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(names)])
print([bool(os.statvfs(path).f_flag & os.ST_RDONLY) for path in ("/", "/usr", "/proc", "/tmp")])
"""


@dataclass(frozen=True)
class Isolation:
    """`bubblewrap`: namespaces. `rlimits`: only limits on each process. `none`: not even those, and
    no program is run.
    """

    level: Literal["bubblewrap", "rlimits", "none"]
    detail: str


@dataclass(frozen=True)
class Means:
    """What this machine offers."""

    isolation: Isolation
    hierarchy: cgroups.Hierarchy | None


def probe() -> Isolation:
    """What holds on this machine. The first call starts a sandbox; later ones know."""
    return means().isolation


@functools.cache
def means() -> Means:
    """As `probe`, with what a sandbox is made of."""
    if platform.system() != "Linux":
        return Means(
            Isolation("none", f"programs can be limited on Linux, not on {platform.system()}"), None
        )
    if shutil.which("bwrap") is None:
        return Means(
            Isolation(
                "rlimits", "bubblewrap is not installed (Debian: apt-get install bubblewrap)"
            ),
            None,
        )
    reason = ""
    hierarchy = cgroups.find()
    for choice in (hierarchy, None) if hierarchy else (None,):
        try:
            return Means(Isolation("bubblewrap", _look(choice)), choice)
        except RuntimeFailure as error:
            reason = str(error)
    return Means(Isolation("rlimits", f"bubblewrap is installed, but {reason}"), None)


def _look(hierarchy: cgroups.Hierarchy | None) -> str:
    """Describe a sandbox. Raises RuntimeFailure when it does not start or does not hold what it
    should.
    """
    limits = Limits()
    with starter() as thread:
        box = thread.submit(Box, limits, hierarchy).result()
        try:
            box.wait_ready()
            completed = box.run(_LOOK, {}, b"", limits)
        finally:
            box.discard()
    filtered = seccomp.program() is not None
    expected = f"['{0:016x}', '{0:016x}', '1', '{2 if filtered else 0}']\n"
    expected += "[True, True, True, False]\n"
    if completed.ending != Ending.EXITED or completed.stdout.decode() != expected:
        raise RuntimeFailure(
            f"a sandbox reports {completed.stdout!r} {completed.stderr!r} instead of {expected!r}"
        )
    parts = ["namespaces", "no network", "read-only system", "no capabilities", "rlimits"]
    parts.append("seccomp" if filtered else f"no seccomp filter for {platform.machine()}")
    parts.append(str(hierarchy) if hierarchy else "no cgroups: memory is limited by process")
    if not patience.told():
        parts.append("time limits by the clock: a busy machine can end a program")
    return ", ".join(parts)
