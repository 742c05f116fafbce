"""The sandbox of an agent program: what is not named here does not exist inside.

A program sees /usr, the interpreter with what is installed beside it, and the folders that its task
names, all read-only; its own folder, which it can write; /tmp, held in memory and limited; and no
network but the endpoint, on its loopback interface. It has no capabilities and no way to new
namespaces. It has the user of the run, seen from inside as another one. Memory, processor time and
the size of its folder are limited by the deadlines alone, and no system call is filtered.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from envs.sandbox.bubblewrap import isolated, system_folders
from envs.sandbox.privileges import prefix

PORT = 8080
"""Of the endpoint inside, where nobody else has ports."""
_RELAY = Path(__file__).parent / "in_sandbox" / "relay.py"
_RELAY_INSIDE = "/run/r2v/relay.py"
_SOCKET_INSIDE = "/run/r2v/endpoint"
_TMP_BYTES = 256 << 20
_ETC = (
    *("alternatives", "ld.so.cache", "ld.so.conf.d", "nsswitch.conf", "passwd", "group"),
    *("ssl/certs", "ssl/openssl.cnf"),
)
"""What programs and libraries of /usr need of /etc."""


def sandboxed(
    command: Sequence[str], folder: str, shown: Sequence[str], endpoint: Path | None
) -> list[str]:
    """The command in a sandbox. `endpoint` is the socket of the endpoint; without one nothing
    answers there.
    """
    arguments = ["bwrap", *isolated(1000, "sandbox")]
    arguments += ["--ro-bind", "/usr", "/usr", *system_folders()]
    for name in _ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    arguments += ["--size", str(_TMP_BYTES), "--tmpfs", "/tmp"]
    for place in dict.fromkeys([str(prefix()), sys.prefix, *shown]):
        arguments += ["--ro-bind", place, place]
    arguments += ["--bind", folder, folder, "--chdir", folder, "--setenv", "HOME", folder]
    relay: list[str] = []
    if endpoint is not None:
        arguments += ["--ro-bind", str(_RELAY), _RELAY_INSIDE]
        arguments += ["--ro-bind", str(endpoint), _SOCKET_INSIDE]
        relay = [sys.executable, "-I", "-S", _RELAY_INSIDE, str(PORT), _SOCKET_INSIDE]
    return [*arguments, "--", *relay, *command]
