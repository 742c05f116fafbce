"""Programs that run in a container on our behalf, and what they say. Each needs bash and the usual
tools alone; an image has nothing of ours.
"""

import io
import select
import socket
import tarfile
import time
from collections.abc import Iterable

from envs.terminal_bench.machine import MachineGone
from envs.terminal_bench.sandbox.shell import Output

FIRST = (
    "trap '' HUP INT QUIT TERM USR1 USR2 PIPE ALRM; exec {never}<> <(:); "
    'while :; do read -r -u "$never"; done'
)
"""The first process of a container: it waits without end and collects what others leave. No signal
of the container ends it, as the kernel exempts the first process; with an init of the engine before
it, it would be the second, and the container would end with it.
"""
WAITS = (
    'for p in /proc/[0-9]*; do read -r call fd rest < $p/syscall && [ "$call" = 0 ] && '
    "case $(readlink $p/fd/$((fd))) in /dev/pts/*) "
    "[ \"$(tr '\\0' ' ' < $p/cmdline | head -c 9)\" = '/bin/bash' ] || exit 0;; "
    "esac; done 2>/dev/null; exit 1"
)
"""Whether a program reads from its terminal."""
KILL = (
    'all=$1; found=$1; while [ -n "$found" ]; do next=; for p in /proc/[0-9]*; do '
    "read -r line < $p/stat 2>/dev/null || continue; line=${line##*) }; set -- $line; "
    'case " $found " in *" $2 "*) next="$next ${p##*/}";; esac; done; all="$all $next"; '
    "found=$next; done; kill -9 $all"
)
"""Ends a process and everything that descends from it."""
PROGRAMS = (
    "for p in /proc/[0-9]*; do case ${p##*/} in 1|$$|$1) continue;; esac; line=; "
    "while IFS= read -r -d '' part; do line+=\"$part \"; done < $p/cmdline; "
    'line=${line%%$\'\\n\'*}; [ -z "$line" ] || echo "${line% }"; done 2>/dev/null'
)
"""The first line of the command line of every process but the first, this one, and the shell that
is named.
"""
STAMPS = "find \"$1\" -printf '%i %C@ %p\\0'"
"""Inode, time of the last change and path of everything in a folder."""
_CHUNK = 1 << 16
_HEAD = 8
"""Bytes before a piece of output: its stream, three of nothing, and its length."""


def follow(stream: socket.socket, output: Output, wait_s: float) -> bool:
    """Take in a program's output, in pieces as an engine sends them, until it ends; False where it
    has not ended in time.
    """
    deadline = time.monotonic() + wait_s
    buffer = bytearray()
    while (remaining_s := deadline - time.monotonic()) > 0:
        if not select.select([stream], [], [], remaining_s)[0]:
            return False
        data = stream.recv(_CHUNK)
        if not data:
            return True
        buffer += data
        while len(buffer) >= _HEAD:
            end = _HEAD + int.from_bytes(buffer[4:_HEAD], "big")
            if len(buffer) < end:
                break
            output.add(bytes(buffer[_HEAD:end]))
            del buffer[:end]
    return False


def contents_of(parts: Iterable[bytes]) -> dict[str, bytes]:
    """The plain files of an archive of a folder of the root, by absolute path."""
    raw = io.BytesIO(b"".join(parts))
    contents = {}
    with tarfile.open(fileobj=raw) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                contents[f"/{member.name}"] = file.read()
    return contents


def stamps_of(listed: bytes) -> dict[str, tuple[int, int]]:
    """By path, inode and time in ns, as `STAMPS` lists them. Raises MachineGone for anything else,
    as the container's own programs have then been replaced.
    """
    stamps = {}
    for line in listed.decode("utf-8", "surrogateescape").split("\0"):
        if not line:
            continue
        number, timestamp, path = (*line.split(" ", 2), "", "")[:3]
        seconds, _, fraction = timestamp.partition(".")
        if not (number.isdecimal() and f"{seconds}{fraction}".isdecimal() and path):
            raise MachineGone(f"its find says {line[:80]!r}")
        stamps[path] = (int(number), int(seconds) * 10**9 + int(f"{fraction:0<9.9}"))
    return stamps
