"""What a terminal's sandbox is made of. What is not named here does not exist inside.

Unlike a sandbox for one program (`envs.sandbox.bubblewrap`) it has a whole file system, held in
memory and limited in size, of which /usr and the interpreter are read-only; a root user who owns
that file system and nothing outside; terminals; and a network of its own with the loopback
interface alone.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from envs.sandbox.bubblewrap import (
    hidden_folders,
    interpreter,
    interpreter_shown,
    isolated,
    system_folders,
)
from envs.sandbox.privileges import prefix

_INSIDE = Path(__file__).parents[1] / "in_sandbox"
_MODULES = tuple(_INSIDE / name for name in ("files.py", "disk.py", "processes.py"))
_CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE")
"""What root can do with files, processes and ports of its own sandbox."""
_SHARED_MEMORY_MIB = 16
_ETC = ("alternatives", "ld.so.cache", "ld.so.conf.d", "ssl/openssl.cnf", "magic", "magic.mime")
"""What programs of /usr need of the host's /etc."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Root:
    """Where the read-only system of a terminal comes from: the host's own /usr, or a prepared root
    of Debian packages.
    """

    folder: Path | None = None

    def binds(self) -> list[str]:
        """Options that show /usr and what belongs to it."""
        if self.folder is None:
            usr, etc, links = Path("/usr"), Path("/etc"), list(system_folders())
        else:
            usr, etc = self.folder / "usr", self.folder / "etc"
            links = []
            for name in ("bin", "lib", "lib64", "sbin"):
                if (usr / name).is_dir():
                    links += ["--symlink", f"usr/{name}", f"/{name}"]
        arguments = ["--ro-bind", str(usr), "/usr", *links]
        for name in _ETC:
            if (etc / name).exists():
                arguments += ["--ro-bind", str(etc / name), f"/etc/{name}"]
        return arguments


def environment() -> dict[str, str]:
    """The variables of every program inside."""
    return {
        "PATH": f"{PATH}:{prefix() / 'bin'}",
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "DEBIAN_FRONTEND": "noninteractive",
    }


@cache
def program() -> tuple[str, ...]:
    """The supervisor's command; its last word is the descriptor on which it talks to the host."""
    return tuple(interpreter(_INSIDE / "supervisor.py", _MODULES))


def options(root: Root, disk_mib: int) -> list[str]:
    """The options that define a terminal's sandbox; `disk_mib` is the size of its file system."""
    arguments = isolated(0, "terminal")
    for capability in _CAPABILITIES:
        arguments += ["--cap-add", capability]
    arguments += ["--as-pid-1", "--clearenv"]
    for name, value in environment().items():
        arguments += ["--setenv", name, value]
    arguments += ["--size", str(disk_mib << 20), "--tmpfs", "/"]
    arguments += root.binds()
    arguments += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"]
    arguments += ["--size", str(_SHARED_MEMORY_MIB << 20), "--tmpfs", "/dev/shm"]
    arguments += ["--remount-ro", "/dev", *interpreter_shown()]
    for folder in hidden_folders():
        if root.folder is not None and folder.startswith("/usr/"):
            continue  # a prepared root has no package of this machine
        arguments += ["--tmpfs", folder, "--remount-ro", folder]
    return arguments
