"""The command that starts a sandbox. What is not named here does not exist inside.

A sandbox sees /usr and the interpreter's own prefix, read-only; /proc of its own processes; four harmless devices; an empty
environment; and /tmp, the only place it can write, held in memory and limited in size. It has no network, no capabilities, no
way to new namespaces, and is never root on the host. Addresses are not randomised and string hashes are fixed, so that a
program that prints them prints the same every time.
"""

import ctypes
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_NOBODY = "65534"
_SHARED_MEMORY_BYTES = 1 << 20
_REACHABLE = "/mnt"
_NO_RANDOMISATION, _NEW_MOUNTS = 0x0040000, 0x00020000
_BIND, _RECEIVE_ONLY = 0x1000, 0x4000 | 1 << 19  # recursively; what the host unmounts is unmounted here too
_INSIDE = Path(__file__).with_name("inside.py").read_text()
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp/work", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


def interpreter() -> list[str]:
    """The waiting interpreter: no user site, no site packages, no bytecode files, nothing unsafe on its path."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # The venv's executable needs the venv's pyvenv.cfg; the base executable finds its library by itself.
    base = Path(sys.base_prefix).resolve() / "bin" / version
    return [str(base), "-P", "-s", "-S", "-B", "-c", _INSIDE]


def settle() -> None:
    """Prepare this thread, once, for all sandboxes that it will start: addresses are not randomised, and the interpreter is within
    reach of nobody. Only this thread and its children see the mount. Raises OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    _demand(libc.personality(_NO_RANDOMISATION))
    if _hidden():
        _demand(libc.unshare(_NEW_MOUNTS))
        _demand(libc.mount(b"none", b"/", None, _RECEIVE_ONLY, None))
        _demand(libc.mount(os.fsencode(_prefix()), _REACHABLE.encode(), None, _BIND, None))


def _demand(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _prefix() -> Path:
    return Path(sys.base_prefix).resolve()


def _hidden() -> bool:
    """Root's home is closed to nobody, and an interpreter often lives there."""
    return os.geteuid() == 0 and not _reachable_by_anyone(_prefix())


def bubblewrap(tmp_mib: int, status_fd: int, seccomp_fd: int | None, entrances: Sequence[Path]) -> list[str]:
    """Arguments of the process that starts a sandbox: it joins the control groups, gives up root, and becomes bubblewrap.

    To be started by a thread that has settled.
    """
    prefix = _prefix()
    command = _as_nobody() if os.geteuid() == 0 else []
    command += ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
    command += ["--new-session", "--die-with-parent", "--as-pid-1", "--hostname", "sandbox", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--ro-bind", "/usr", "/usr", *_system_folders(), "--proc", "/proc", "--dir", "/dev"]
    for device in ("null", "zero", "random", "urandom"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    command += ["--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]
    command += ["--size", str(tmp_mib << 20), "--tmpfs", "/tmp", "--dir", "/tmp/work", "--chdir", "/tmp/work"]
    if not prefix.is_relative_to("/usr"):
        command += ["--ro-bind", _REACHABLE if _hidden() else str(prefix), str(prefix)]
    command += ["--remount-ro", "/", "--json-status-fd", str(status_fd)]
    if seccomp_fd is not None:
        command += ["--seccomp", str(seccomp_fd)]
    command += ["--", *interpreter()]

    if not entrances:
        return command
    first = [f"echo $$ > {shlex.quote(str(entrance))}" for entrance in entrances]
    return ["sh", "-c", " && ".join([*first, 'exec "$@"']), "sh", *command]


def _as_nobody() -> list[str]:
    # Inside a user namespace of root's, uid 0 would still own root's files.
    user = f"setpriv --reuid {_NOBODY} --regid {_NOBODY} --clear-groups"
    return f"{user} --inh-caps=-all --bounding-set=-all --no-new-privs".split()


def _system_folders() -> list[str]:
    """/bin, /lib and the like: links into /usr on most systems, folders of their own on others."""
    arguments = []
    for path in (Path("/bin"), Path("/lib"), Path("/lib64"), Path("/sbin")):
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    return arguments


def _reachable_by_anyone(path: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))
