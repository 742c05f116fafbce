"""What the tests of sandboxes share: whether there is one, and what the host sees of the programs
in it.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from envs.sandbox import Limits, Sandbox, probe

LIMITS = Limits(wall_s=8.0, cpu_s=4.0, memory_mib=256)


def require_bubblewrap() -> None:
    """Skips with the reason where bubblewrap does not work; fails instead where
    R2V_REQUIRE_SANDBOX=1.
    """
    isolation = probe()
    if isolation.level != "bubblewrap":
        message = f"no sandbox here: {isolation.detail}"
        if os.environ.get("R2V_REQUIRE_SANDBOX") == "1":
            pytest.fail(message)
        pytest.skip(message)


def survivors(pid_namespace: str) -> list[int]:
    """Processes of the host that live in a PID namespace, named as in /proc/PID/ns/pid.

    The kernel gives the name of a namespace that is gone to the next one. So processes that have a
    living bubblewrap are left out: that of a run is gone when the run returns.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(
                OSError, psutil.NoSuchProcess
            ):  # it ended meanwhile, or is another user's
                if os.readlink(entry / "ns" / "pid") == pid_namespace and not _has_bubblewrap(
                    psutil.Process(int(entry.name))
                ):
                    found.append(int(entry.name))
    return found


def _sandboxed(process: psutil.Process) -> bool:
    try:
        return process.name() == "bwrap" or _has_bubblewrap(process)
    except psutil.NoSuchProcess:
        return False


def _has_bubblewrap(process: psutil.Process) -> bool:
    return any(parent.name() == "bwrap" for parent in process.parents())


class Watch(threading.Thread):
    """The most processes and the most resident memory (MiB) of sandboxes at one time; those that
    were there before do not count.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.processes, self.rss_mib = 0, 0.0
        self._stop_watching = threading.Event()

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_watching.set()
        self.join()

    def run(self) -> None:
        own = psutil.Process()
        before = set(own.children(recursive=True))
        while not self._stop_watching.is_set():
            children = [
                child
                for child in own.children(recursive=True)
                if child not in before and _sandboxed(child)
            ]
            self.processes = max(self.processes, len(children))
            self.rss_mib = max(self.rss_mib, sum(_rss(child) for child in children) / 2**20)
            time.sleep(0.03)


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


@contextmanager
def starved_sandbox(busy: int) -> Iterator[Sandbox]:
    """A sandbox whose programs share one processor with `busy` processes that never rest."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    hogs = []
    try:
        hogs += [
            subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
            for _ in range(busy)
        ]
        with Sandbox(LIMITS, warm=1) as sandbox:  # its starting thread inherits the processor
            os.sched_setaffinity(0, everywhere)
            yield sandbox
    finally:
        os.sched_setaffinity(0, everywhere)
        for hog in hogs:
            hog.kill()
            hog.wait()
