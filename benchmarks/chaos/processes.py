"""Processes below this one: which there are, and which outlive what started them.

Invariant: only processes that this one has started, by itself or through others, are ever named
here; so nobody else's are killed.
"""

import contextlib
import time

import psutil

TITLES = {
    "runner": "ray::EnvRunnerActor",
    "engine": "ray::EngineServer",
    "scorer": "ray::VerifierServer",
    "collector": "ray::CollectorActor",
    "rank": "ray::RayTrainWorker",
}
"""What Ray calls the process of each target."""
_STARTING = ".__init__"


class Family:
    """The descendants of this process, also those whose parents are gone."""

    def __init__(self) -> None:
        self._seen: dict[int, psutil.Process] = {}

    def of(self, target: str) -> list[int]:
        """The processes of a target that have started and are alive."""
        found = []
        for process in self._descendants():
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline()).strip()
                if title.startswith(TITLES[target]) and _STARTING not in title:
                    found.append(process.pid)
        return found

    def left(self, wait_s: float) -> list[str]:
        """What is still there of all that were seen, after a wait; it is ended then."""
        self._descendants()
        deadline = time.monotonic() + wait_s
        while (alive := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.2)
        names = []
        for process in alive:
            with contextlib.suppress(psutil.Error):
                names.append(" ".join(process.cmdline())[:80])
                process.kill()
        self._seen.clear()
        return names

    def _descendants(self) -> list[psutil.Process]:
        processes = psutil.Process().children(recursive=True)
        for process in processes:
            self._seen.setdefault(process.pid, process)
        return processes

    def _alive(self) -> list[psutil.Process]:
        alive = []
        for process in self._seen.values():
            with contextlib.suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive


def stopped(pid: int) -> bool:
    """Whether a process stands still because of a signal."""
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False
