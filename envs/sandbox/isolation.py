"""Which isolation is in force, measured by a program inside a sandbox."""

import functools
import platform
import shutil
from dataclasses import dataclass
from typing import Literal

from envs.sandbox import cgroups, deadline, seccomp
from envs.sandbox.limits import Ending, Limits
from envs.sandbox.privileges import start_thread
from envs.sandbox.process import SandboxProcess
from r2v_dist.errors import RuntimeFailure

_LOOK = """
import os
names = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp:")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(names)])
print([bool(os.statvfs(path).f_flag & os.ST_RDONLY) for path in ("/", "/usr", "/proc", "/tmp")])
"""


@dataclass(frozen=True)
class Isolation:
    """`bubblewrap`: namespaces. `rlimits`: only limits on each process. `none`: no limits, and no
    program is run.
    """

    level: Literal["bubblewrap", "rlimits", "none"]
    detail: str


@dataclass(frozen=True)
class Means:
    """Isolation and control groups of this machine."""

    isolation: Isolation
    hierarchy: cgroups.Hierarchy | None


def probe() -> Isolation:
    """The isolation of this machine. The first call starts a sandbox; its result is kept."""
    return means().isolation


@functools.cache
def means() -> Means:
    """As `probe`, with the control groups that sandboxes use."""
    if platform.system() != "Linux":
        no_linux = f"programs can be limited on Linux, not on {platform.system()}"
        return Means(Isolation("none", no_linux), None)
    if shutil.which("bwrap") is None:
        no_bubblewrap = "bubblewrap is not installed (Debian: apt-get install bubblewrap)"
        return Means(Isolation("rlimits", no_bubblewrap), None)
    reason = ""
    hierarchy = cgroups.find()
    for choice in (hierarchy, None) if hierarchy else (None,):
        try:
            return Means(Isolation("bubblewrap", _look(choice)), choice)
        except RuntimeFailure as error:
            reason = str(error)
    return Means(Isolation("rlimits", f"bubblewrap is installed, but {reason}"), None)


def _look(hierarchy: cgroups.Hierarchy | None) -> str:
    """Describe a sandbox. Raises RuntimeFailure when it does not start, or is not isolated as it
    should be.
    """
    limits = Limits()
    with start_thread() as thread:
        process = thread.submit(SandboxProcess, limits, hierarchy).result()
        try:
            process.wait_ready()
            completed = process.run(_LOOK, {}, b"", limits)
        finally:
            process.discard()
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
    if not deadline.kernel_reports_waiting():
        parts.append("time limits by the clock: a busy machine can end a program")
    return ", ".join(parts)
