"""The thread that starts sandboxes: sandboxes inherit its privileges from their first instruction.

Its address space is not randomised. Where this process is root, the thread has the user `nobody`
while it starts a process, so that no sandbox ever was root, and it sees the interpreter in a folder
that `nobody` can reach. These are attributes of a thread, and no other thread changes. The C
library changes credentials for every thread of a process, so system calls are made directly.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from r2v_dist.errors import RuntimeFailure

REACHABLE = "/mnt"
_NOBODY = 65534
_NO_RANDOMISATION = 0x0040000
_NEW_MOUNTS = 0x00020000
_BIND = 0x1000
_RECEIVE_ONLY = 0x4000 | 1 << 19
"""Recursive, and slave: a folder that the host unmounts is unmounted here too."""
_DROP_FROM_BOUNDING_SET = 24
_NO_NEW_PRIVILEGES = 38
_AMBIENT = 47
_CLEAR_ALL = 4
_SETGROUPS, _SETRESGID, _SETRESUID = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147)}.get(
    platform.machine(), (-1, -1, -1)
)
_libc = ctypes.CDLL(None, use_errno=True)


def start_thread(bubblewrapped: bool = True) -> ThreadPoolExecutor:
    """The thread, which must outlive the sandboxes that it starts. Raises RuntimeFailure where they
    cannot be prepared.
    """
    thread = ThreadPoolExecutor(1, "sandbox-starter")
    try:
        if bubblewrapped:
            thread.submit(_settle).result()
    except OSError as error:
        thread.shutdown()
        raise RuntimeFailure(f"sandboxes cannot be prepared: {error}") from error
    return thread


@contextmanager
def nobody() -> Iterator[None]:
    """For the thread of a `start_thread`: processes that are started in this context belong to the
    user `nobody` and cannot gain privileges.
    """
    if os.geteuid() != 0:
        yield
        return
    # The saved user stays root, so that this thread can change back; a started process loses it.
    _demand(_libc.syscall(_SETRESUID, _NOBODY, _NOBODY, 0))
    try:
        yield
    finally:
        _demand(_libc.syscall(_SETRESUID, 0, 0, 0))


@cache
def hidden() -> bool:
    """Whether the user `nobody` cannot reach the interpreter (it often lies in root's home). It is
    then also mounted at REACHABLE.
    """
    return os.geteuid() == 0 and not _reachable_by_anyone(prefix())


@cache
def prefix() -> Path:
    """The folder of the interpreter and its library."""
    return Path(sys.base_prefix).resolve()


def _settle() -> None:
    """Raises OSError where one of these steps is not allowed."""
    _demand(_libc.personality(_NO_RANDOMISATION))
    if hidden():
        _demand(_libc.unshare(_NEW_MOUNTS))
        _demand(_libc.mount(b"none", b"/", None, _RECEIVE_ONLY, None))
        _demand(_libc.mount(os.fsencode(prefix()), REACHABLE.encode(), None, _BIND, None))
    if os.geteuid() == 0:
        _demand(_libc.syscall(_SETGROUPS, 0, None))
        _demand(_libc.syscall(_SETRESGID, _NOBODY, _NOBODY, _NOBODY))
        last_capability = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="utf-8"))
        for capability in range(last_capability + 1):
            _demand(_libc.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0))
        _demand(_libc.prctl(_AMBIENT, _CLEAR_ALL, 0, 0, 0))
        _demand(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
        with nobody():
            pass


def _demand(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _reachable_by_anyone(path: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))
