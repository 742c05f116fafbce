"""The processes of a sandbox beside its first: started, looked at, stopped and ended. Invariant: no
signal is sent to the first process itself.
"""

import _signal  # type: ignore[import-not-found]  # `signal` without its enums
import posix
import resource
import sys
import time
from collections.abc import Callable

from envs.terminal_bench.in_sandbox.files import link_at

_READS = {"0", "63"}
"""Numbers of the call `read` on x86-64 and arm64."""
_WAITS = {"0", "7", "23", "270", "271", "232", "281", "63", "72", "73", "22"}
"""Calls in which a program waits for input: read, poll, select and their kin."""
_COMMANDS = 9
"""The descriptor from which a shell reads its commands."""
_SHELL_FDS = 5
"""Terminal three times, the pipe of commands, and the terminal once more for marks."""
_ROUNDS = 50
_LONGEST_LINE = 1000
_PAGE = resource.getpagesize()


class Processes:
    """`ended(process, code)` is called for each shell or program that ended."""

    def __init__(self, ended: Callable[[int, int], None]) -> None:
        self._ended = ended
        self._children: set[int] = set()
        self._limits: list[tuple[int, tuple[int, int]]] = []
        self._dying: set[int] = set()
        self.most_bytes = 0
        """What all of them together may have in memory, beside files; 0: the host sees to it."""
        self.shell = 0
        self._shell_limits = ""

    def limit(self, limits: list[tuple[int, tuple[int, int]]]) -> None:
        """Limits of every process that is started from here on."""
        self._limits = limits

    def hold_memory(self) -> None:
        """End the largest processes until all together have no more than they may."""
        sizes = []
        present = {*self.others(), self.shell}
        self._dying &= present  # they still hold memory, and will not for long
        for process in present - self._dying:
            try:
                with open(f"/proc/{process}/statm", encoding="ascii") as file:
                    _, resident, shared, *_ = map(int, file.read().split())
            except (OSError, ValueError):  # it ended meanwhile
                continue
            sizes.append(((resident - shared) * _PAGE, process))
        excess = sum(size for size, _ in sizes) - self.most_bytes
        for size, process in sorted(sizes, reverse=True):
            if excess <= 0:
                break
            kill(process)
            self._dying.add(process)
            excess -= size

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
                self._ended(process, posix.waitstatus_to_exitcode(status))

    def start_shell(
        self, argv: list[str], environment: dict[str, str], folder: str, rows: int, columns: int
    ) -> tuple[int, list[int]]:
        """A shell on a new terminal; the terminal's other side, and the pipe of its commands."""
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
        self.shell = process
        self._shell_limits = ""
        return process, [master, into]

    def start(
        self, argv: list[str], environment: dict[str, str], folder: str
    ) -> tuple[int, list[int]]:
        """A program of its own session, without a terminal, and its output."""
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
        self.forget_all()
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

    def others(self) -> list[int]:
        """Processes beside the first one and the shell."""
        numbers = [int(name) for name in posix.listdir("/proc") if name.isdigit()]
        return [number for number in numbers if number not in (1, self.shell)]

    def programs(self) -> list[str]:
        """The command line of each of the others, its first line alone."""
        lines = []
        for process in self.others():
            try:
                with open(f"/proc/{process}/cmdline", "rb") as file:
                    line = file.read(_LONGEST_LINE).replace(b"\0", b" ").partition(b"\n")[0]
            except OSError:  # it ended meanwhile
                continue
            if line:  # else it has ended and nobody has collected it
                lines.append(line.decode("utf-8", "replace").strip())
        return lines

    def note_limits(self) -> None:
        """Remember the limits of the shell, if it is a new one."""
        self._shell_limits = self._shell_limits or _limits_of(self.shell)

    def shell_is_plain(self) -> bool:
        """Whether the shell waits for its next command and has the limits and the descriptors that
        it began with. It tells of a command's end a moment before it waits.
        """
        if _limits_of(self.shell) != self._shell_limits:
            return False
        place = f"/proc/{self.shell}"
        for _ in range(_ROUNDS):
            try:
                with open(f"{place}/syscall", encoding="ascii") as file:
                    call = file.read().split()
                if call[0] in _READS and int(call[1], 16) == _COMMANDS:
                    targets = [link_at(f"{place}/fd/{fd}") for fd in posix.listdir(f"{place}/fd")]
                    odd = [
                        target
                        for target in targets
                        if not target.startswith(("/dev/pts/", "pipe:"))
                    ]
                    return not odd and len(targets) == _SHELL_FDS
            except (OSError, ValueError, IndexError):  # it is running
                pass
            time.sleep(0.001)
        return False

    def waiting(self) -> tuple[bool, bool]:
        """Whether a process of the terminal's foreground waits to read a line, or waits in a call
        in which full-screen programs wait.
        """
        line, key = False, False
        for process in (*self.others(), self.shell):
            reads, waits = _waiting(process, self.shell)
            line = line or reads
            key = key or waits
        return line, key

    def kill_new(self, before: list[int]) -> None:
        """End every process but the shell, the first, and those that were there before. New ones
        that appear meanwhile are ended too.
        """
        for _ in range(_ROUNDS):
            new_processes = [process for process in self.others() if process not in before]
            for process in new_processes:
                kill(process)
            if not new_processes:
                break

    def end_all(self) -> None:
        """End every other process, and tell of each that the host asked for."""
        _end_all_others()
        for process in self._children:
            self._ended(process, -9)
        self._children.clear()

    def forget_all(self) -> None:
        """End every other process, and tell of none."""
        _end_all_others()
        self._children.clear()


def _limits_of(process: int) -> str:
    """A process's limits as the kernel writes them, nothing where it has ended."""
    try:
        with open(f"/proc/{process}/limits", encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def kill(target: int) -> None:
    """End a process, or with a negative number a group of processes, if it is there."""
    if target > 1 or target < -1:
        try:  # noqa: SIM105 -- `contextlib` takes a millisecond to import
            posix.kill(target, _signal.SIGKILL)
        except ProcessLookupError:
            pass


def freeze() -> None:
    """Stop every other process where it is."""
    _signal_all(_signal.SIGSTOP)


def thaw() -> None:
    """Let them go on."""
    _signal_all(_signal.SIGCONT)


def _signal_all(number: int) -> None:
    """A signal to every process but this one."""
    try:  # noqa: SIM105 -- `contextlib` takes a millisecond to import
        posix.kill(-1, number)
    except ProcessLookupError:  # there is none
        pass


def _waiting(process: int, shell: int) -> tuple[bool, bool]:
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


def _end_all_others() -> None:
    """End every process of this namespace but this one."""
    while True:
        try:
            posix.kill(-1, _signal.SIGKILL)
            posix.wait()
        except (ProcessLookupError, ChildProcessError):
            return
