"""Single files of a sandbox, with the calls of the kernel alone: every terminal waits for what this
imports.
"""

import posix  # `os` takes a millisecond to import
import stat
import time

_LONGEST_PATH = 3800
"""Bytes of a path; the kernel takes 4,095, in which a name below has to fit too."""

Entry = tuple[str, str, int, int, bytes]
"""Path, kind (file, folder, link, pipe), mode, time of change in ns, content or target."""


def mount_points() -> list[str]:
    """Where something is mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [line.split()[4] for line in file]


def too_long(path: str) -> bool:
    """Whether what is below a path may have none that the kernel takes."""
    return len(_encoded(path)) > _LONGEST_PATH


def link_at(path: str) -> str:
    """The target of a link, empty where there is none."""
    try:
        return posix.readlink(path)
    except OSError:
        return ""


def set_aside(path: str) -> None:
    """Give whatever is at a path another name."""
    try:  # noqa: SIM105 -- `contextlib` takes a millisecond to import
        posix.rename(path, f"{path}.{time.monotonic_ns()}")
    except FileNotFoundError:
        pass


def hard_linked(info: "posix.stat_result") -> bool:
    """Whether a file has several names: a copy would have as many files."""
    return info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode)


def packed(path: str, info: "posix.stat_result") -> Entry | None:
    """A file as an entry; None for what cannot be copied."""
    mode = stat.S_IMODE(info.st_mode)
    mtime_ns = info.st_mtime_ns
    if stat.S_ISDIR(info.st_mode):
        return path, "folder", mode, mtime_ns, b""
    if stat.S_ISLNK(info.st_mode):
        return path, "link", mode, mtime_ns, posix.readlink(_encoded(path))
    if stat.S_ISFIFO(info.st_mode):
        return path, "pipe", mode, mtime_ns, b""
    if not stat.S_ISREG(info.st_mode):
        return None
    try:
        return path, "file", mode, mtime_ns, read(path, info.st_size)
    except OSError:
        return None


def unpack(entries: list[Entry]) -> None:
    """Write files; folders get their modes and times last."""
    for path, kind, mode, _, content in entries:
        if kind == "folder":
            folders(path)
            continue
        folders(path.rpartition("/")[0])
        remove(path)
        if kind == "link":
            posix.symlink(content, _encoded(path))
        elif kind == "pipe":
            posix.mkfifo(path, mode)
        else:
            write(path, content, mode)
    for path, kind, mode, mtime_ns, _ in reversed(entries):
        if kind == "link":
            posix.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
            continue
        posix.chmod(path, mode)
        if mtime_ns:
            posix.utime(path, ns=(mtime_ns, mtime_ns))


def beginning(path: str, most: int) -> bytes | None:
    """The first bytes of a plain file, None where there is none."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    except OSError:
        return None
    try:
        return posix.read(fd, most) if stat.S_ISREG(posix.fstat(fd).st_mode) else None
    finally:
        posix.close(fd)


def read(path: str, size: int) -> bytes:
    """A file of that size."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    try:
        parts = []
        while size > 0:
            part = posix.read(fd, size)
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
    finally:
        posix.close(fd)


def write(path: str, content: bytes, mode: int) -> None:
    """A new file."""
    fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[posix.write(fd, view) :]
    finally:
        posix.close(fd)


def folders(path: str) -> None:
    """Make a folder and those above it; a file in the place of one gives way."""
    missing_paths = []
    while path and not is_folder(path):
        missing_paths.append(path)
        path = path.rpartition("/")[0]
    for folder in reversed(missing_paths):
        remove(folder)
        posix.mkdir(folder, 0o755)


def is_folder(path: str) -> bool:
    """Whether a folder is there, or a link to one."""
    try:
        return stat.S_ISDIR(posix.stat(path).st_mode)
    except OSError:  # nothing is there, or nothing can be
        return False


def remove(path: str) -> None:
    """Remove a file or a link, if there is one."""
    try:  # noqa: SIM105 -- `contextlib` takes a millisecond to import
        posix.unlink(path)
    except FileNotFoundError:
        pass


def _encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
