"""Limits on all processes of one sandbox together. A group is made for one program and removed with
it.

Both versions of the kernel's interface are supported. A controller that cannot be used is left out;
the address-space and process limits of each process remain.
"""

import itertools
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CONTROLLERS = ("memory", "pids")
_COUNTING = "cpuacct"
"""Version 1 only; in version 2 every group counts processor time."""
_STALE_S = 60.0
_HUGE_PAGE = 2 << 20
"""The largest single allocation: a group without room for it has reached its limit."""
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """Where groups are made: the folder of each controller (the same folder in version 2)."""

    version: int
    folders: tuple[tuple[str, Path], ...]

    def __str__(self) -> str:
        return f"cgroup v{self.version} ({', '.join(name for name, _ in self.folders)})"


class Group:
    """The control group of one sandbox. Raises OSError where it cannot be made."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        name = f"r2v-{os.getpid()}-{next(_numbers)}"
        self._version = hierarchy.version
        self._folders = {controller: folder / name for controller, folder in hierarchy.folders}
        for folder in set(self._folders.values()):
            folder.mkdir()

    @property
    def _entrances(self) -> set[Path]:
        return {folder / "cgroup.procs" for folder in self._folders.values()}

    def admit(self, process: int) -> None:
        """Make a process, and every process that it starts later, a member."""
        for entrance in self._entrances:
            entrance.write_text(str(process), encoding="utf-8")

    def limit(self, memory_mib: int, processes: int) -> None:
        """Set the limits, once."""
        if folder := self._folders.get("memory"):
            memory_bytes = str(memory_mib << 20)
            if self._version == 1:
                self._limit_memory(folder, "memory.limit_in_bytes", memory_bytes)
                self._limit_swap(folder, "memory.memsw.limit_in_bytes", memory_bytes)
            else:
                self._limit_memory(folder, "memory.max", memory_bytes)
                self._limit_swap(folder, "memory.swap.max", "0")
        if folder := self._folders.get("pids"):
            # Two more: bubblewrap and the interpreter that supervises the program.
            (folder / "pids.max").write_text(str(processes + 2), encoding="utf-8")

    @staticmethod
    def _limit_memory(folder: Path, name: str, value: str) -> None:
        (folder / name).write_text(value, encoding="utf-8")

    @staticmethod
    def _limit_swap(folder: Path, name: str, value: str) -> None:
        with suppress(OSError):  # a kernel without swap accounting
            (folder / name).write_text(value, encoding="utf-8")

    def out_of_memory(self) -> bool:
        """Whether the kernel ended a process of the group because the group reached its limit.

        The kernel can also end a process of a group below its limit, where the host has no memory
        left.
        """
        folder = self._folders.get("memory")
        if folder is None:
            return False
        if self._version == 2:
            events = _figures(folder / "memory.events")
            return events.get("oom_kill", 0) > 0 and events.get("oom", 0) > 0
        largest = _figure(folder / "memory.max_usage_in_bytes")
        limit = _figure(folder / "memory.limit_in_bytes")
        kills = _figures(folder / "memory.oom_control").get("oom_kill", 0)
        return kills > 0 and largest >= limit - _HUGE_PAGE

    def cpu_s(self) -> float | None:
        """Processor seconds of all processes that were ever in the group; None where the kernel
        does not count them.
        """
        if self._version == 2:
            folder = next(iter(self._folders.values()))
            return _figures(folder / "cpu.stat")["usage_usec"] / 1e6
        counting = self._folders.get(_COUNTING)
        return None if counting is None else _figure(counting / "cpuacct.usage") / 1e9

    def remove(self) -> None:
        """Delete the emptied group; the kernel may need a moment to see that it is empty."""
        for folder in set(self._folders.values()):
            for pause_s in (0.0, 0.001, 0.01, 0.1, 1.0):
                time.sleep(pause_s)
                with suppress(OSError):
                    folder.rmdir()
                    break


def _figure(path: Path) -> int:
    """A file that holds one number."""
    return int(path.read_text(encoding="utf-8"))


def _figures(path: Path) -> dict[str, int]:
    """A file of lines `name number`."""
    figures = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, number = line.split()
        figures[name] = int(number)
    return figures


def find() -> Hierarchy | None:
    """The controllers that this process may use, or None. Removes groups that killed processes left
    behind.
    """
    groups = dict(_own_groups())
    version_1 = {name: groups[name] for name in (*_CONTROLLERS, _COUNTING) if name in groups}
    choices = [(1, version_1)]
    if "" in groups:
        # A version 2 group that holds processes cannot have limited children; its parent often can.
        for folder in (groups[""], groups[""].parent):
            choices.append((2, dict.fromkeys(_CONTROLLERS, folder)))
    for version, folders in choices:
        usable = [item for item in folders.items() if _works(version, *item)]
        if usable:
            return Hierarchy(version, tuple(usable))
    return None


def _own_groups() -> list[tuple[str, Path]]:
    """The folder of this process for each controller; the name of version 2 is ''."""
    groups = []
    mounts = _mounts()
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name in mounts:
                inside = mounts[name] / path.lstrip("/")
                # In a container the mount often starts at the container's own group.
                groups.append((name, inside if inside.is_dir() else mounts[name]))
    return groups


def _mounts() -> dict[str, Path]:
    """Where each controller is mounted; the name of version 2 is ''."""
    mounts = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        place = Path(fields.split()[4])
        if kind == "cgroup2":
            mounts[""] = place
        elif kind == "cgroup":
            mounts.update(dict.fromkeys(options.split(","), place))
    return mounts


def _works(version: int, controller: str, folder: Path) -> bool:
    _sweep(folder)
    try:
        group = Group(Hierarchy(version, ((controller, folder),)))
    except OSError:
        return False
    try:
        group.limit(64, 8)
        return all(os.access(entrance, os.W_OK) for entrance in group._entrances)
    except OSError:
        return False
    finally:
        group.remove()


def _sweep(folder: Path) -> None:
    for group in folder.glob("r2v-*-*"):
        owner = group.name.split("-")[1]
        with suppress(OSError):  # in use, or gone
            age_s = time.time() - group.stat().st_mtime
            if age_s > _STALE_S and not Path("/proc", owner).exists():
                group.rmdir()
