"""Every attack ends as its limits say, gets nothing, leaves nothing on the host, and the next
program notices nothing.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from envs.sandbox import Completed, Ending, Sandbox
from envs.sandbox.deadline import BACKSTOP
from envs.sandbox.isolation import means
from tests.sandbox_attacks import ATTACKS, PRELUDE, Attack
from tests.sandboxes import LIMITS, Watch, require_bubblewrap, survivors

SECRET = "r2v-bait-7d1c"
NEXT = (
    "import os; print(sorted(os.listdir('/tmp')), os.listdir('.'), os.listdir('/dev/shm'), "
    "sum(range(10)))"
)
WARM = 1
OWN_PROCESSES = 3 * (WARM + 1) + 1
"""Of each sandbox, warm or running: bubblewrap outside, bubblewrap inside, the interpreter; and the
bait.
"""


@dataclass
class Bait:
    """What a program that gets out would find: files, a process of its own host user, and servers
    that count their visitors.
    """

    folder: Path
    process: subprocess.Popen[bytes]
    tcp: socket.socket
    udp: socket.socket
    unix: socket.socket
    abstract: socket.socket

    def described(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "file": str(self.folder / "secret"),
            "pid": self.process.pid,
            "own_pid": os.getpid(),
            "port": self.tcp.getsockname()[1],
            "socket": str(self.unix.getsockname()),
            "abstract": self.abstract.getsockname()[1:].decode(),
            "secret": SECRET,
        }

    def touched(self) -> list[str]:
        """What happened to it."""
        traces = [] if self.process.poll() is None else ["the process was killed"]
        if {path.name: path.is_socket() or path.read_text() for path in self.folder.iterdir()} != {
            "secret": SECRET,
            "socket": True,
        }:
            traces.append("the folder was changed")
        for server in (self.tcp, self.unix, self.abstract):
            with suppress(BlockingIOError):
                server.accept()
                traces.append(f"{server.getsockname()!r} was visited")
        with suppress(BlockingIOError):
            traces.append(f"a datagram came: {self.udp.recv(9)!r}")
        return traces


@pytest.fixture(scope="module")
def bait() -> Iterator[Bait]:
    folder = Path("/var/tmp") / f"r2v-bait-{os.getpid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)  # so that only the sandbox stands in the way
    (folder / "secret").write_text(SECRET)
    (folder / "secret").chmod(0o666)
    tcp, udp = (
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    )
    udp.bind(tcp.getsockname())
    unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    unix.bind(str(folder / "socket"))
    (folder / "socket").chmod(0o666)
    abstract.bind(f"\0r2v-bait-{os.getpid()}")
    for server in (unix, abstract):
        server.listen()
    for server in (tcp, udp, unix, abstract):
        server.setblocking(False)
    user = (
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        if os.geteuid() == 0
        else []
    )
    os.environ["R2V_TEST_SECRET"] = SECRET
    process = subprocess.Popen([*user, "sleep", "600"])
    yield Bait(folder, process, tcp, udp, unix, abstract)
    process.kill()
    process.wait()
    del os.environ["R2V_TEST_SECRET"]
    for server in (tcp, udp, unix, abstract):
        server.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    require_bubblewrap()
    with Sandbox(LIMITS, warm=WARM) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    "attack", ATTACKS, ids=[attack.name.replace(" ", "-") for attack in ATTACKS]
)
def test_attack_is_contained(sandbox: Sandbox, bait: Bait, attack: Attack) -> None:
    limits = replace(LIMITS, **attack.limits)
    free_mib = shutil.disk_usage("/var/tmp").free >> 20
    with Watch() as watch:
        completed = sandbox.run(
            PRELUDE + attack.source,
            json.dumps(bait.described()).encode() + b"\n" + attack.stdin,
            limits=limits,
        )

    assert completed.ending in attack.endings, completed
    assert b"LEAK" not in completed.stdout, completed
    assert SECRET.encode() not in completed.stdout + completed.stderr
    assert max(len(completed.stdout), len(completed.stderr)) <= limits.output_kib << 10
    assert (
        completed.wall_s < BACKSTOP * limits.wall_s + 2
    )  # a busy machine's delays are not the program's
    assert watch.processes <= limits.processes + OWN_PROCESSES
    if "memory" in dict(means().hierarchy.folders if means().hierarchy else ()):
        assert watch.rss_mib < 2 * limits.memory_mib  # what processes share is counted for each
    assert abs(free_mib - (shutil.disk_usage("/var/tmp").free >> 20)) < 1024
    assert bait.touched() == []
    assert not survivors(_namespace(completed))
    _next_program_notices_nothing(sandbox)


def _namespace(completed: Completed) -> str:
    """Where the program said it was; a source that does not compile says nothing, and
    ran nowhere.
    """
    first = completed.stdout.split(b"\n")[0].decode()
    assert (
        first.startswith("pid:[")
        or b"SyntaxError" in completed.stderr
        or b"MemoryError" in completed.stderr
    ), completed
    return first


def _next_program_notices_nothing(sandbox: Sandbox) -> None:
    completed = sandbox.run(NEXT)
    assert (completed.ending, completed.returncode, completed.stderr) == (Ending.EXITED, 0, b"")
    assert completed.stdout == b"['main.py', 'work'] [] [] 45\n"


@pytest.mark.parametrize("name", ["reading the host's files", "other ways to talk"])
def test_the_bait_is_real(bait: Bait, name: str) -> None:
    """Outside of a sandbox the same programs get what they want, so their failure inside means
    something.
    """
    attack = next(attack for attack in ATTACKS if attack.name == name)
    program = [sys.executable, "-c", PRELUDE + attack.source]
    completed = subprocess.run(
        program,
        input=json.dumps(bait.described()).encode() + b"\n",
        capture_output=True,
        check=True,
    )
    assert b"LEAK" in completed.stdout
    assert bool(bait.touched()) == (name == "other ways to talk")


def test_a_survivor_would_be_seen() -> None:
    require_bubblewrap()
    program = "import os, time; print(os.readlink('/proc/self/ns/pid'), flush=True); time.sleep(60)"
    # Without --die-with-parent the program outlives bubblewrap.
    arguments = [
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--unshare-pid",
        sys.executable,
        "-c",
        program,
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    namespace = process.stdout.readline().strip()
    process.kill()
    process.wait()
    found = survivors(namespace)
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def test_there_are_enough_attacks_and_no_two_are_the_same() -> None:
    assert (
        len({attack.name for attack in ATTACKS})
        == len({attack.source for attack in ATTACKS})
        == len(ATTACKS)
        >= 30
    )
