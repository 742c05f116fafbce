"""Limits on all processes of one sandbox together. A group is made for one program and removed with
it.

Both versions of the interface are spoken; a controller that cannot be used is left out, and the
address-space and process limits of each process remain.
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
"""The most that is asked for at once, so that a group which is full lacks less than that."""
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """Where groups are made: for each of `controllers`, a folder (the same one in version 2)."""

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
        """Make a process and all that it will start members."""
        for entrance in self._entrances:
            entrance.write_text(str(process), encoding="utf-8")

    def limit(self, memory_mib: int, processes: int) -> None:
        """Set the limits, once."""
        if folder := self._folders.get("memory"):
            memory, swap = (
                ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
                if self._version == 1
                else ("memory.max", "memory.swap.max")
            )
            (folder / memory).write_text(str(memory_mib << 20), encoding="utf-8")
            with suppress(OSError):  # a kernel without swap accounting
                (folder / swap).write_text(
                    str(memory_mib << 20) if self._version == 1 else "0", encoding="utf-8"
                )
        if folder := self._folders.get("pids"):
            # Two more: bubblewrap and the interpreter that supervises the program.
            (folder / "pids.max").write_text(str(processes + 2), encoding="utf-8")

    def out_of_memory(self) -> bool:
        """Whether the kernel ended a process of the group because the group's memory was used up.

        Where the host's memory was, a process of the group can be ended without the group having
        reached its limit.
        """
        folder = self._folders.get("memory")
        if folder is None:
            return False
        if self._version == 2:
            events = _figures(folder / "memory.events")
            return events.get("oom_kill", 0) > 0 and events.get("oom", 0) > 0
        most, limit = (
            int((folder / f"memory.{name}_in_bytes").read_text(encoding="utf-8"))
            for name in ("max_usage", "limit")
        )
        return (
            _figures(folder / "memory.oom_control").get("oom_kill", 0) > 0
            and most >= limit - _HUGE_PAGE
        )

    def cpu_s(self) -> float | None:
        """Processor seconds of all processes that were ever in the group; None where nobody counts
        them.
        """
        if self._version == 2:
            return _figures(next(iter(self._folders.values())) / "cpu.stat")["usage_usec"] / 1e6
        folder = self._folders.get(_COUNTING)
        return int((folder / "cpuacct.usage").read_text(encoding="utf-8")) / 1e9 if folder else None

    def remove(self) -> None:
        """Delete the emptied group; the kernel may need a moment to see that it is empty."""
        for folder in set(self._folders.values()):
            for pause_s in (0.0, 0.001, 0.01, 0.1, 1.0):
                time.sleep(pause_s)
                with suppress(OSError):
                    folder.rmdir()
                    break


def _figures(path: Path) -> dict[str, int]:
    """A file of lines `name number`."""
    words = path.read_text(encoding="utf-8").split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=True)}


def find() -> Hierarchy | None:
    """The controllers this process may use, or None. Removes what processes that were killed have
    left.
    """
    own = dict(_own_groups())
    choices = [(1, {name: own[name] for name in (*_CONTROLLERS, _COUNTING) if name in own})]
    if "" in own:
        # With processes of its own, a version 2 group cannot have limited children; its parent
        # often can.
        choices += [
            (2, dict.fromkeys(_CONTROLLERS, folder)) for folder in (own[""], own[""].parent)
        ]
    for version, folders in choices:
        usable = tuple(
            (name, folder) for name, folder in folders.items() if _works(version, name, folder)
        )
        if usable:
            return Hierarchy(version, usable)
    return None


def _own_groups() -> list[tuple[str, Path]]:
    """This process's folder for each controller; version 2 goes by the name ''."""
    groups = []
    mounts = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind == "cgroup2":
            mounts[""] = Path(fields.split()[4])
        elif kind == "cgroup":
            mounts.update(dict.fromkeys(options.split(","), Path(fields.split()[4])))
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name in mounts:
                inside = mounts[name] / path.lstrip("/")
                # In a container the mount often starts at the container's own group.
                groups.append((name, inside if inside.is_dir() else mounts[name]))
    return groups


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
    for stale in folder.glob("r2v-*-*"):
        owner = stale.name.split("-")[1]
        with suppress(OSError):  # in use, or gone
            if not Path("/proc", owner).exists() and time.time() - stale.stat().st_mtime > _STALE_S:
                stale.rmdir()
