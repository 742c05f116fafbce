"""The first process of a terminal's sandbox: it starts shells and programs, and copies files in and
out.

It is given to the interpreter compiled, and imports little, as every terminal waits for it. It
trusts nothing in the sandbox and is trusted with nothing: a process in there could at most make it
answer wrongly. The kernel ends every process of the sandbox with this one, and no signal of theirs
reaches it; its memory is closed to them.

A request is its length (8 bytes, little endian) and a marshalled `(name, *arguments)`. What comes
back is two lengths of 8 bytes, the text of a Python literal and raw bytes: `("answer", value)`,
with the descriptors and the bytes that the request yields; between them come `("ended", process,
code)` for each shell or program that ended.
"""

import _ctypes  # `ctypes` takes milliseconds to import, and is needed for one call
import _signal  # type: ignore[import-not-found]  # `signal` without its enums
import _socket  # `socket` without its classes
import marshal
import posix  # `os` takes a millisecond to import
import resource
import select
import stat
import sys
import time

_PR_SET_DUMPABLE = 4
_READS = {"0", "63"}
"""Numbers of the call `read` on x86-64 and arm64."""
_WAITS = {"0", "7", "23", "270", "271", "232", "281", "63", "72", "73", "22"}
"""Calls in which a program waits for input: read, poll, select and their kin."""
_COMMANDS = 9
"""The descriptor from which a shell reads its commands."""
_SHELL_FDS = 5
"""Terminal three times, the pipe of commands, and the terminal once more for marks."""
_ROUNDS = 50
_SYSTEM_FOLDERS = ("/etc", "/etc/ssl")
_SYSTEM_FILES = (
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/etc/ssl/openssl.cnf",
    "/etc/alternatives",
)
"""What says which code the programs of /usr load and which programs its links mean."""
_SHELL_STATE = "/run/r2v-shell"
_LONGEST_PATH = 3800
"""Bytes of a path; the kernel takes 4,095, in which a name below has to fit too."""
_WIPE_S = 10.0
_SOL_SOCKET = 1
_SCM_RIGHTS = 1

Entry = tuple[str, str, int, int, bytes]
"""Path, kind (file, folder, link, pipe), mode, time of change in ns, content or target."""


class Supervisor:
    """Answers the host's requests until the host closes the connection."""

    def __init__(self, control: int) -> None:
        posix.set_inheritable(control, False)
        self._fd = control
        self._control = _socket.socket(fileno=control)
        self._children: set[int] = set()
        self._payload = b""
        self._shell = 0
        self._root = posix.lstat("/").st_dev
        self._shared = posix.lstat("/dev/shm").st_dev
        self._known: dict[str, tuple[int, int, int]] = {}
        self._limits: list[tuple[int, tuple[int, int]]] = []
        self._links = links_of_system()
        self._mounts = mount_points()

    def serve(self) -> None:
        """Answer until the end."""
        woken, waker = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        self.send(("answer", None))
        while True:
            ready, _, _ = select.select([self._fd, woken], [], [])
            if woken in ready:
                posix.read(woken, 4096)
            self.reap()
            if self._fd in ready:
                request, *arguments = marshal.loads(self._receive())
                self._payload = b""
                value, fds = getattr(self, "do_" + request)(*arguments)
                self.send(("answer", value), fds, self._payload)
                for fd in fds:
                    posix.close(fd)

    def send(self, message: object, fds: list[int] | None = None, payload: bytes = b"") -> None:
        """One message to the host."""
        body = ascii(message).encode("ascii")
        lengths = len(body).to_bytes(8, "little") + len(payload).to_bytes(8, "little")
        data = lengths + body + payload
        rights = []
        if fds:
            packed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
            rights = [(_SOL_SOCKET, _SCM_RIGHTS, packed)]
        sent = self._control.sendmsg([data], rights)
        self._control.sendall(data[sent:])

    def _receive(self) -> bytes:
        length = int.from_bytes(self._exactly(8), "little")
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self._control.recv(min(count, 1 << 20))
            if not part:
                posix._exit(0)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def reap(self) -> None:
        """Collect what ended, and tell of what the host asked for."""
        while True:
            try:
                process, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                return
            if not process:
                return
            if process in self._children:
                self._children.discard(process)
                self.send(("ended", process, posix.waitstatus_to_exitcode(status)))

    # Requests: each returns a value and descriptors for the host.

    def do_limit(self, limits: list[tuple[int, tuple[int, int]]]) -> tuple[None, list[int]]:
        """Limits of every process that is started from here on."""
        self._limits = limits
        return None, []

    def do_restore(self, archive: bytes) -> tuple[None, list[int]]:
        """Write what `do_pack` had."""
        return self.do_unpack(marshal.loads(archive))

    def do_unpack(self, entries: list[Entry]) -> tuple[None, list[int]]:
        """Write files; folders get their modes and times last."""
        for path, kind, mode, _, content in entries:
            if kind == "folder":
                folders(path)
                continue
            folders(path.rpartition("/")[0])
            remove(path)
            if kind == "link":
                posix.symlink(content, path.encode("utf-8", "surrogateescape"))
            elif kind == "pipe":
                posix.mkfifo(path, mode)
            else:
                write(path, content, mode)
        for path, kind, mode, changed, _ in reversed(entries):
            if kind == "link":
                posix.utime(path, ns=(changed, changed), follow_symlinks=False)
                continue
            posix.chmod(path, mode)
            if changed:
                posix.utime(path, ns=(changed, changed))
        return None, []

    def do_wipe(self) -> tuple[bool, list[int]]:
        """End every other process and remove every file that can be written. Whether only folders
        are left in which the system is mounted, and it is mounted where it was.
        """
        end_all_others()
        self._children.clear()
        deadline = time.monotonic() + _WIPE_S
        while self._remove_all() and time.monotonic() < deadline:
            pass
        mounts = mount_points()
        clean = mounts == self._mounts
        for path, _ in self._walk():
            clean = clean and any(point.startswith(f"{path}/") for point in mounts)
        return clean, []

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
                    posix.rename(path, f"/{time.monotonic_ns()}")
                    moved = True
        return moved

    def do_pack(self, most_entries: int, most_bytes: int) -> tuple[bool, list[int]]:
        """Every file that can be written, as bytes for `do_restore`; False where there are more
        than that, or some that cannot be copied.
        """
        entries: list[Entry] = []
        if not self._shell_is_plain():
            return False, []
        for path, info in self._walk():
            most_bytes -= info.st_size if stat.S_ISREG(info.st_mode) else 0
            if len(entries) >= most_entries or most_bytes < 0:
                return False, []
            if hard_linked(info) or too_long(path):
                return False, []
            entry = packed(path, info)
            if entry is None:
                return False, []
            entries.append(entry)
        self._payload = marshal.dumps(entries)
        return True, []

    def do_look(self, most_entries: int) -> tuple[tuple[int | None, list[int], str], list[int]]:
        """How many files changed since the last look (None where there are too many to say), the
        processes beside this one and the shell, and the shell's folder.
        """
        others = self._others()
        folder = link_at(f"/proc/{self._shell}/cwd") or "/"
        now: dict[str, tuple[int, int, int]] = {}
        for path, info in self._walk():
            if len(now) >= most_entries:
                self._known = {}
                return (None, others, folder), []
            if stat.S_ISDIR(info.st_mode):
                now[path] = (info.st_mode, 0, 0)
            else:
                now[path] = (info.st_mode, info.st_size, info.st_mtime_ns)
        changed = sum(1 for path, what in now.items() if self._known.get(path) != what)
        changed += sum(1 for path in self._known if path not in now)
        self._known = now
        return (changed, others, folder), []

    def _shell_is_plain(self) -> bool:
        """Whether the shell waits for its next command and has the descriptors that it began with.
        It tells of a command's end a moment before it waits.
        """
        place = f"/proc/{self._shell}"
        for _ in range(_ROUNDS):
            try:
                with open(f"{place}/syscall", encoding="ascii") as file:
                    call = file.read().split()
                if call[0] in _READS and int(call[1], 16) == _COMMANDS:
                    targets = [link_at(f"{place}/fd/{fd}") for fd in posix.listdir(f"{place}/fd")]
                    odd = [one for one in targets if not one.startswith(("/dev/pts/", "pipe:"))]
                    return not odd and len(targets) == _SHELL_FDS
            except (OSError, ValueError, IndexError):  # it is running
                pass
            time.sleep(0.001)
        return False

    def do_shell(
        self, argv: list[str], environment: dict[str, str], folder: str, rows: int, columns: int
    ) -> tuple[int, list[int]]:
        """A shell on a new terminal; the host gets the terminal's other side, and the pipe of the
        shell's commands.
        """
        import fcntl
        import termios

        master, slave = posix.openpty()
        size = b"".join(part.to_bytes(2, sys.byteorder) for part in (rows, columns, 0, 0))
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        out, into = posix.pipe2(posix.O_CLOEXEC)
        process = self._fork()
        if not process:
            posix.close(master)
            posix.login_tty(slave)
            posix.dup2(out, _COMMANDS)
            self._become(argv, environment, folder)
        posix.close(slave)
        posix.close(out)
        self._shell = process
        return process, [master, into]

    def do_run(
        self, argv: list[str], environment: dict[str, str], folder: str
    ) -> tuple[int, list[int]]:
        """A program of its own session, without a terminal; the host gets its output."""
        out, into = posix.pipe2(posix.O_CLOEXEC)
        process = self._fork()
        if not process:
            posix.setsid()
            null = posix.open("/dev/null", posix.O_RDONLY)
            for fd, number in ((null, 0), (into, 1), (into, 2)):
                posix.dup2(fd, number)
            self._become(argv, environment, folder)
        posix.close(into)
        return process, [out]

    def do_kill(self, target: int) -> tuple[None, list[int]]:
        """End a process, or with a negative number a group of processes."""
        kill(target)
        return None, []

    def do_kill_new(self, before: list[int]) -> tuple[None, list[int]]:
        """End every process but the shell, this one, and those that were there before. New ones
        that appear meanwhile are ended too.
        """
        for _ in range(_ROUNDS):
            new = [process for process in self._others() if process not in before]
            for process in new:
                kill(process)
            if not new:
                break
        return None, []

    def do_end_others(self) -> tuple[None, list[int]]:
        """End every other process."""
        end_all_others()
        for process in self._children:
            self.send(("ended", process, -9))
        self._children.clear()
        return None, []

    def do_waiting(self) -> tuple[tuple[bool, bool], list[int]]:
        """Whether a process of the terminal's foreground waits to read a line, or waits in a call
        in which full-screen programs wait.
        """
        line, key = False, False
        for process in (*self._others(), self._shell):
            reads, waits = waiting(process, self._shell)
            line = line or reads
            key = key or waits
        return (line, key), []

    def do_mend(self) -> tuple[None, list[int]]:
        """Undo what would let programs of /usr run code of somebody else: another /bin or /lib, and
        other files that name libraries to load. It calls no program to do so.
        """
        for path in _SYSTEM_FOLDERS:
            if link_at(path):  # whose target could be another one later
                set_aside(path)
        for path in _SYSTEM_FILES:
            try:
                device = posix.lstat(path).st_dev
            except OSError:
                continue
            if device in (self._root, self._shared):  # else it is the system's own, mounted there
                set_aside(path)
        for path, target in self._links.items():
            if link_at(path) != target:
                set_aside(path)
                posix.symlink(target, path)
        return None, []

    def do_freeze(self) -> tuple[None, list[int]]:
        """Stop every other process where it is."""
        signal_all(_signal.SIGSTOP)
        return None, []

    def do_thaw(self) -> tuple[None, list[int]]:
        """Let them go on."""
        signal_all(_signal.SIGCONT)
        return None, []

    def do_stamps(self, folder: str) -> tuple[list[tuple[str, int, int]], list[int]]:
        """Path, inode and time of the last change of any kind of everything in a folder, and of
        what `do_mend` looks after. Nobody can set such a time, so that whoever touched a file in
        between is found out.
        """
        found = [(path, info.st_ino, info.st_ctime_ns) for path, info in self._walk(folder)]
        for path in (folder, *_SYSTEM_FOLDERS, *_SYSTEM_FILES, *self._links):
            try:
                info = posix.lstat(path)
            except OSError:
                continue
            found.append((path, info.st_ino, info.st_ctime_ns))
        return found, []

    def do_forget(self) -> tuple[None, list[int]]:
        """Remove what the shell wrote of itself for a snapshot."""
        remove(_SHELL_STATE)
        return None, []

    def do_read(self, path: str, most: int) -> tuple[bool, list[int]]:
        """The first bytes of a plain file; False where there is none."""
        try:
            fd = posix.open(path, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK)
        except OSError:
            return False, []
        try:
            if not stat.S_ISREG(posix.fstat(fd).st_mode):
                return False, []
            self._payload = posix.read(fd, most)
            return True, []
        finally:
            posix.close(fd)

    def _fork(self) -> int:
        for pause_s in (0.0, 0.01, 0.1, 0.5):
            try:
                process = posix.fork()
            except OSError:  # a program has taken every process there may be
                time.sleep(pause_s)
                continue
            if process:
                self._children.add(process)
            return process
        end_all_others()
        self._children.clear()
        process = posix.fork()
        if process:
            self._children.add(process)
        return process

    def _become(self, argv: list[str], environment: dict[str, str], folder: str) -> None:
        """Turn this forked process into a program."""
        try:
            _signal.set_wakeup_fd(-1)
            for number in (_signal.SIGCHLD, _signal.SIGINT, _signal.SIGPIPE, _signal.SIGXFSZ):
                _signal.signal(number, _signal.SIG_DFL)
            for kind, limit in self._limits:
                resource.setrlimit(kind, limit)
            try:
                posix.chdir(folder)
            except OSError:
                posix.chdir("/")
            posix.execve(argv[0], argv, environment)
        finally:
            posix._exit(127)

    def _others(self) -> list[int]:
        numbers = [int(name) for name in posix.listdir("/proc") if name.isdigit()]
        return [number for number in numbers if number not in (1, self._shell)]

    def _walk(self, top: str = "/") -> "list[tuple[str, posix.stat_result]]":
        """Everything on the file systems that can be written, folders before what is in them."""
        found = []
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
                if info.st_dev not in (self._root, self._shared):
                    continue
                found.append((path, info))
                if stat.S_ISDIR(info.st_mode):
                    folders_left.append(path)
        return found


def links_of_system() -> dict[str, str]:
    """The links of the root folder into /usr."""
    found = {}
    for name in ("bin", "lib", "lib64", "sbin"):
        target = link_at(f"/{name}")
        if target:
            found[f"/{name}"] = target
    return found


def mount_points() -> list[str]:
    """Where something is mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [line.split()[4] for line in file]


def too_long(path: str) -> bool:
    """Whether what is below a path may have none that the kernel takes."""
    return len(path.encode("utf-8", "surrogateescape")) > _LONGEST_PATH


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
    changed = info.st_mtime_ns
    if stat.S_ISDIR(info.st_mode):
        return path, "folder", mode, changed, b""
    if stat.S_ISLNK(info.st_mode):
        return path, "link", mode, changed, posix.readlink(path.encode("utf-8", "surrogateescape"))
    if stat.S_ISFIFO(info.st_mode):
        return path, "pipe", mode, changed, b""
    if not stat.S_ISREG(info.st_mode):
        return None
    try:
        return path, "file", mode, changed, read(path, info.st_size)
    except OSError:
        return None


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
        rest = memoryview(content)
        while rest:
            rest = rest[posix.write(fd, rest) :]
    finally:
        posix.close(fd)


def kill(target: int) -> None:
    """End a process or a group, if it is there."""
    if target > 1 or target < -1:
        try:  # noqa: SIM105 -- `contextlib` takes a millisecond to import
            posix.kill(target, _signal.SIGKILL)
        except ProcessLookupError:
            pass


def signal_all(number: int) -> None:
    """A signal to every process but this one."""
    try:  # noqa: SIM105 -- `contextlib` takes a millisecond to import
        posix.kill(-1, number)
    except ProcessLookupError:  # there is none
        pass


def folders(path: str) -> None:
    """Make a folder and those above it; a file in the place of one gives way."""
    missing = []
    while path and not is_folder(path):
        missing.append(path)
        path = path.rpartition("/")[0]
    for one in reversed(missing):
        remove(one)
        posix.mkdir(one, 0o755)


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


def waiting(process: int, shell: int) -> tuple[bool, bool]:
    """Whether a process reads from the terminal, and whether it waits for something there."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open(f"/proc/{process}/syscall", encoding="ascii") as file:
            call, *arguments = file.read().split()
        in_foreground = fields[2] == fields[5] and int(fields[4]) != 0
        if fields[0] != b"S" or not in_foreground or call not in _WAITS:
            return False, False
        if call not in _READS:
            return False, process != shell
        target = posix.readlink(f"/proc/{process}/fd/{int(arguments[0], 16)}")
        reads = target.startswith(("/dev/pts/", "/dev/tty"))
        return reads, reads
    except (OSError, ValueError):  # it ended, or is running
        return False, False


def end_all_others() -> None:
    """End every process of this namespace but this one."""
    while True:
        try:
            posix.kill(-1, _signal.SIGKILL)
            posix.wait()
        except (ProcessLookupError, ChildProcessError):
            return


def close_memory() -> None:
    """Let no process of the same user read or write this one's memory."""
    library = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]  # the program itself
    arguments = (_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if _ctypes.call_function(_ctypes.dlsym(library, "prctl"), arguments) != 0:
        posix._exit(1)


def main() -> None:
    """Serve the host at the descriptor that the command line names."""
    close_memory()
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    control = int(sys.argv[1])
    posix.umask(0o022)
    Supervisor(control).serve()


if __name__ == "__main__":
    main()
