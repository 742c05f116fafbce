"""The command that starts a sandbox. What is not named here does not exist inside.

A sandbox sees /usr and the interpreter's own prefix, read-only and without the packages that are
installed there; /proc of its own processes, read-only, as its files lead to the supervisor's memory
and to priorities; four harmless devices; an empty environment; and /tmp, the only place it can
write, held in memory and limited in size. It has no network, no capabilities, no way to new
namespaces, and is never root on the host. Addresses are not randomised and string hashes are fixed,
so that a program that prints them prints the same every time.
"""

import marshal
import sys
from functools import cache
from pathlib import Path

from envs.sandbox.privileges import REACHABLE, hidden, prefix

_SHARED_MEMORY_BYTES = 1 << 20
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp/work",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
}


def interpreter() -> list[str]:
    """The waiting interpreter: no user site, no site packages, no bytecode files, nothing unsafe on
    its path.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # The venv's executable needs the venv's pyvenv.cfg; the base executable finds its library by
    # itself.
    return [str(prefix() / "bin" / version), "-P", "-s", "-S", "-B", "-c", _inside()]


@cache
def _inside() -> str:
    """`supervisor.py`, compiled here, once, for the same interpreter."""
    code = compile(
        Path(__file__).with_name("supervisor.py").read_text(encoding="utf-8"),
        "supervisor.py",
        "exec",
        dont_inherit=True,
    )
    return f"import marshal\nexec(marshal.loads(bytes.fromhex({marshal.dumps(code).hex()!r})))"


def bubblewrap(options_fd: int) -> list[str]:
    """The command that waits for its `options`, NUL-terminated, at a descriptor; to be started by
    the thread of a `starter`.
    """
    return ["bwrap", "--args", str(options_fd), "--", *interpreter()]


def options(tmp_mib: int, status_fd: int, seccomp_fd: int | None) -> list[str]:
    """What a sandbox is."""
    command = [
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--cap-drop",
        "ALL",
    ]
    command += [
        "--new-session",
        "--die-with-parent",
        "--as-pid-1",
        "--hostname",
        "sandbox",
        "--clearenv",
    ]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    command += ["--ro-bind", "/usr", "/usr", *_system_folders()]
    command += ["--proc", "/proc", "--remount-ro", "/proc", "--dir", "/dev"]
    for device in ("null", "zero", "random", "urandom"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    command += ["--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]
    command += [
        "--size",
        str(tmp_mib << 20),
        "--tmpfs",
        "/tmp",
        "--dir",
        "/tmp/work",
        "--chdir",
        "/tmp/work",
    ]
    if not prefix().is_relative_to("/usr"):
        command += ["--ro-bind", REACHABLE if hidden() else str(prefix()), str(prefix())]
    for folder in _hidden_folders():
        command += ["--tmpfs", folder, "--remount-ro", folder]
    command += ["--remount-ro", "/", "--json-status-fd", str(status_fd)]
    if seccomp_fd is not None:
        command += ["--seccomp", str(seccomp_fd)]
    return command


@cache
def _system_folders() -> tuple[str, ...]:
    """/bin, /lib and the like: links into /usr on most systems, folders of their own on others."""
    arguments: list[str] = []
    for path in (Path("/bin"), Path("/lib"), Path("/lib64"), Path("/sbin")):
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    return tuple(arguments)


@cache
def _hidden_folders() -> tuple[str, ...]:
    """What would be seen and must not be had: installed packages, and this project with its
    solutions."""
    places = (Path("/usr"), prefix())
    found = {Path(__file__).resolve().parents[1]}
    for root in (Path("/usr"), Path("/usr/local"), prefix()):
        for kind in ("site-packages", "dist-packages"):
            found.update(folder.resolve() for folder in root.glob(f"lib*/python3*/{kind}"))
    shown = [path for path in found if any(path.is_relative_to(place) for place in places)]
    # Nothing can be mounted inside of a hidden folder, and nothing need be.
    outermost = [path for path in shown if not any(other in path.parents for other in shown)]
    return tuple(str(path) for path in sorted(outermost))
