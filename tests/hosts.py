"""Two hosts on one machine: each has its own network, process table, home, `/tmp/ray` and shared
memory, and they share nothing but a folder of storage. Needs root and iproute2.

Invariant: a host ends, with every process on it, when its block or the test's process does.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.runs import ROOT

PORT = 6379
# Reads its input for ever, so that the host ends with whoever holds the other end of the pipe.
_INIT = """
set -e
ip link set lo up
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs {own}
mkdir -p {own}/home {own}/ray /tmp/ray
mount --bind {own}/ray /tmp/ray
echo ready
exec cat
"""
_RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-the-two-hosts-" + "0" * 32}


@dataclass(frozen=True)
class Host:
    """One of the hosts; `pid` is its first process, `link` its end of the cable."""

    address: str
    link: str
    own: Path
    pid: int

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command on this host, in the repository's root."""
        environment = os.environ | _RAY
        environment |= {"HOME": str(self.own / "home"), "XDG_CACHE_HOME": str(self.own / "cache")}
        return subprocess.Popen(
            ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid",
             "env", f"--chdir={ROOT}", *command],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def ray(self, *options: str, cpus: int) -> None:
        """Have this host's Ray begin, as the head's or beside it."""
        process = self.start(
            str(Path(sys.executable).with_name("ray")), "start", f"--num-cpus={cpus}",
            f"--node-ip-address={self.address}", "--object-store-memory=200000000",
            "--disable-usage-stats", *options,
        )  # fmt: skip
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, output + errors

    def cut(self) -> None:
        """Pull the cable: nothing is told to anybody, packets are lost."""
        command = ["nsenter", f"--target={self.pid}", "--net", "ip", "link", "set", self.link]
        subprocess.run([*command, "down"], check=True, timeout=10)


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts that reach each other by a cable, and nothing else."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two hosts on one machine need root and iproute2")
    name = uuid.uuid4().hex[:8]
    own = folder / "own"  # the same path on both, with other contents
    own.mkdir()
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(_started(own)) for _ in range(2)]
        links = [f"r2v{name}{number}" for number in range(2)]
        _ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        hosts = []
        for number, (pid, link) in enumerate(zip(pids, links, strict=True)):
            address = f"10.77.0.{number + 1}"
            _ip("link", "set", link, "netns", str(pid))
            inside = ("nsenter", f"--target={pid}", "--net", "ip")
            subprocess.run([*inside, "addr", "add", f"{address}/24", "dev", link], check=True)
            subprocess.run([*inside, "link", "set", link, "up"], check=True)
            hosts.append(Host(address, link, own, pid))
        yield hosts[0], hosts[1]


@contextlib.contextmanager
def _started(own: Path) -> Iterator[int]:
    """The process id of a new host's first process."""
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen(
        [*command, "bash", "-c", _INIT.format(own=own)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        [first] = psutil.Process(process.pid).children()
        yield first.pid
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


def wait_for(what: str, seconds: float, done: "subprocess.Popen[str]", path: Path) -> None:
    """Wait until there is a file below a folder while a process lives."""
    deadline = time.monotonic() + seconds
    while not (path.is_dir() and any(path.iterdir())):
        assert done.poll() is None, what
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
