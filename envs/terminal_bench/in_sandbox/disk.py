"""The file systems of a sandbox that can be written, as a whole: copied, cleared, compared, and
the system's own part of them put right. Invariant: what is mounted there is the system's, and no
program is called to look after it.
"""

import marshal
import posix
import stat
import time

from envs.terminal_bench.in_sandbox.files import (
    Entry,
    hard_linked,
    link_at,
    mount_points,
    packed,
    set_aside,
    too_long,
)

_SYSTEM_FOLDERS = ("/etc", "/etc/ssl")
_SYSTEM_FILES = (
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/etc/ssl/openssl.cnf",
    "/etc/alternatives",
)
"""What says which code the programs of /usr load and which programs its links mean."""
_WIPE_S = 10.0


class Disk:
    """Made before any other process of the sandbox, so that what is there is the system's."""

    def __init__(self) -> None:
        self._devices = (posix.lstat("/").st_dev, posix.lstat("/dev/shm").st_dev)
        self._links = _links_of_system()
        self._mounts = mount_points()
        self._known: dict[str, tuple[int, int, int]] = {}

    def clear(self) -> bool:
        """Remove every file; no other process may run. Whether only folders are left in which the
        system is mounted, and it is mounted where it was.
        """
        deadline = time.monotonic() + _WIPE_S
        while self._remove_all() and time.monotonic() < deadline:
            pass
        mounts = mount_points()
        clean = mounts == self._mounts
        for path, _ in self._walk():
            clean = clean and any(point.startswith(f"{path}/") for point in mounts)
        return clean

    def _remove_all(self) -> bool:
        """Remove what has a path. Whether some folder holds what is too deep to have one: it is
        moved to the top, from where that has.
        """
        moved = False
        for path, info in reversed(self._walk()):
            try:
                if stat.S_ISDIR(info.st_mode):
                    posix.rmdir(path)
                else:
                    posix.unlink(path)
            except OSError:  # a folder in which something is mounted, or too deep
                if too_long(path):
                    # To the top of its own file system: nothing moves between two.
                    top = "/dev/shm" if path.startswith("/dev/shm/") else ""
                    posix.rename(path, f"{top}/{time.monotonic_ns()}")
                    moved = True
        return moved

    def pack(self, most_entries: int, most_bytes: int) -> bytes | None:
        """Every file, for `files.unpack`, marshalled; None where there are more than that, or some
        that cannot be copied.
        """
        entries: list[Entry] = []
        for path, info in self._walk():
            most_bytes -= info.st_size if stat.S_ISREG(info.st_mode) else 0
            if len(entries) >= most_entries or most_bytes < 0:
                return None
            if hard_linked(info) or too_long(path):
                return None
            entry = packed(path, info)
            if entry is None:
                return None
            entries.append(entry)
        return marshal.dumps(entries)

    def changed(self, most_entries: int) -> int | None:
        """How many files changed since the last call, None where there are too many to say."""
        files: dict[str, tuple[int, int, int]] = {}
        for path, info in self._walk():
            if len(files) >= most_entries:
                self._known = {}
                return None
            if stat.S_ISDIR(info.st_mode):
                files[path] = (info.st_mode, 0, 0)
            else:
                files[path] = (info.st_mode, info.st_size, info.st_mtime_ns)
        count = sum(1 for path, entry in files.items() if self._known.get(path) != entry)
        count += sum(1 for path in self._known if path not in files)
        self._known = files
        return count

    def mend(self) -> None:
        """Undo what would let programs of /usr run code of somebody else: another /bin or /lib, and
        other files that name libraries to load.
        """
        for path in self.out_of_order():
            set_aside(path)
            if path in self._links:
                posix.symlink(self._links[path], path)

    def out_of_order(self) -> list[str]:
        """What `mend` would put right."""
        # The target of a link could be another one later.
        paths = [path for path in _SYSTEM_FOLDERS if link_at(path)]
        for path in _SYSTEM_FILES:
            try:
                device = posix.lstat(path).st_dev
            except OSError:
                continue
            if device in self._devices:  # else it is the system's own, mounted there
                paths.append(path)
        return paths + [path for path, target in self._links.items() if link_at(path) != target]

    def stamps(self, folder: str) -> list[tuple[str, int, int]]:
        """Path, inode and time of the last change of any kind of everything in a folder, and of
        what `mend` looks after. Nobody can set such a time, so that whoever touched a file in
        between is found out.
        """
        stamps = [(path, info.st_ino, info.st_ctime_ns) for path, info in self._walk(folder)]
        for path in (folder, *_SYSTEM_FOLDERS, *_SYSTEM_FILES, *self._links):
            try:
                info = posix.lstat(path)
            except OSError:
                continue
            stamps.append((path, info.st_ino, info.st_ctime_ns))
        return stamps

    def _walk(self, top: str = "/") -> "list[tuple[str, posix.stat_result]]":
        """Everything that can be written, folders before what is in them."""
        entries = []
        folders_left = [top] if top != "/" else ["/", "/dev/shm"]
        while folders_left:
            folder = folders_left.pop()
            try:
                names = sorted(posix.listdir(folder))
            except OSError:
                continue
            for name in names:
                path = f"{folder.rstrip('/')}/{name}"
                try:
                    info = posix.lstat(path)
                except OSError:
                    continue
                if info.st_dev not in self._devices:
                    continue
                entries.append((path, info))
                if stat.S_ISDIR(info.st_mode):
                    folders_left.append(path)
        return entries


def _links_of_system() -> dict[str, str]:
    """The links of the root folder into /usr."""
    links = {}
    for name in ("bin", "lib", "lib64", "sbin"):
        target = link_at(f"/{name}")
        if target:
            links[f"/{name}"] = target
    return links
