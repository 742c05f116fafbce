"""The first process of a terminal's sandbox: it starts shells and programs, and copies files in and
out.

It is given to the interpreter compiled, together with the modules beside it, and imports little, as
every terminal waits for it. It trusts nothing in the sandbox and is trusted with nothing: a process
in there could at most make it answer wrongly. The kernel ends every process of the sandbox with
this one, and no signal of theirs reaches it; its memory is closed to them.

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
import select
import sys

from envs.terminal_bench.in_sandbox.disk import Disk
from envs.terminal_bench.in_sandbox.files import Entry, beginning, link_at, remove, unpack
from envs.terminal_bench.in_sandbox.processes import Processes, freeze, kill, thaw

_PR_SET_DUMPABLE = 4
_SHELL_STATE = "/run/r2v-shell"
_WATCH_S = 0.05
_SOL_SOCKET = 1
_SCM_RIGHTS = 1

Answer = tuple[object, list[int], bytes]
"""A plain value, descriptors and raw bytes for the host."""
_DONE: Answer = (None, [], b"")


class Supervisor:
    """Answers the host's requests, each by the method `do_` and its name, until the host closes the
    connection.
    """

    def __init__(self, control: int) -> None:
        posix.set_inheritable(control, False)
        self._fd = control
        self._control = _socket.socket(fileno=control)
        self._disk = Disk()
        self._processes = Processes(lambda process, code: self.send(("ended", process, code)))

    def serve(self) -> None:
        """Answer until the end."""
        woken, waker = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        self.send(("answer", None))
        while True:
            pause_s = _WATCH_S if self._processes.most_bytes else None
            ready_fds, _, _ = select.select([self._fd, woken], [], [], pause_s)
            if pause_s is not None:
                self._processes.hold_memory()
            if woken in ready_fds:
                posix.read(woken, 4096)
            self._processes.reap()
            if self._fd in ready_fds:
                request, *arguments = marshal.loads(self._receive())
                value, fds, payload = getattr(self, "do_" + request)(*arguments)
                self.send(("answer", value), fds, payload)
                for fd in fds:
                    posix.close(fd)

    def send(self, message: object, fds: list[int] | None = None, payload: bytes = b"") -> None:
        """One message to the host."""
        body = ascii(message).encode("ascii")
        lengths = len(body).to_bytes(8, "little") + len(payload).to_bytes(8, "little")
        data = lengths + body + payload
        rights = []
        if fds:
            fd_bytes = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
            rights = [(_SOL_SOCKET, _SCM_RIGHTS, fd_bytes)]
        count = self._control.sendmsg([data], rights)
        self._control.sendall(data[count:])

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

    def do_limit(self, limits: list[tuple[int, tuple[int, int]]], most_bytes: int) -> Answer:
        """Limits of every process that is started from here on, and of the memory of all together;
        0 where the host has a control group for that.
        """
        self._processes.limit(limits)
        self._processes.most_bytes = most_bytes
        return _DONE

    def do_unpack(self, entries: list[Entry]) -> Answer:
        """Write files."""
        unpack(entries)
        return _DONE

    def do_pack(self, most_entries: int, most_bytes: int) -> Answer:
        """Every file that can be written, as bytes for `do_restore`. False where there are more
        than that, some that cannot be copied, or a shell that a copy would not have.
        """
        if not self._processes.shell_is_plain():
            return False, [], b""
        archive = self._disk.pack(most_entries, most_bytes)
        return archive is not None, [], archive or b""

    def do_wipe(self) -> Answer:
        """End every other process and remove every file. Whether it is as it was at the start."""
        self._processes.forget_all()
        return self._disk.clear(), [], b""

    def do_restore(self, archive: bytes) -> Answer:
        """Write what `do_pack` had."""
        unpack(marshal.loads(archive))
        return _DONE

    def do_forget(self) -> Answer:
        """Remove what the shell wrote of itself for a snapshot."""
        remove(_SHELL_STATE)
        return _DONE

    def do_look(self, most_entries: int) -> Answer:
        """How many files changed since the last look (None where there are too many to say), the
        processes beside this one and the shell, and the shell's folder.
        """
        self._processes.note_limits()
        processes = self._processes.others()
        folder = link_at(f"/proc/{self._processes.shell}/cwd") or "/"
        return (self._disk.changed(most_entries), processes, folder), [], b""

    def do_read(self, path: str, most: int) -> Answer:
        """The first bytes of a plain file; False where there is none."""
        content = beginning(path, most)
        return content is not None, [], content or b""

    def do_stamps(self, folder: str) -> Answer:
        """As `Disk.stamps`."""
        return self._disk.stamps(folder), [], b""

    def do_holds(self, contents: list[tuple[str, bytes]]) -> Answer:
        """Whether these files are there, and the system is in order."""
        matches = [beginning(path, len(content) + 1) == content for path, content in contents]
        return all(matches) and not self._disk.out_of_order(), [], b""

    def do_mend(self) -> Answer:
        """As `Disk.mend`."""
        self._disk.mend()
        return _DONE

    def do_shell(
        self, argv: list[str], environment: dict[str, str], folder: str, rows: int, columns: int
    ) -> Answer:
        """A shell on a new terminal: its process, with two descriptors."""
        process, fds = self._processes.start_shell(argv, environment, folder, rows, columns)
        return process, fds, b""

    def do_run(self, argv: list[str], environment: dict[str, str], folder: str) -> Answer:
        """A program without a terminal: its process, with one descriptor."""
        process, fds = self._processes.start(argv, environment, folder)
        return process, fds, b""

    def do_programs(self) -> Answer:
        """As `Processes.programs`."""
        return self._processes.programs(), [], b""

    def do_waiting(self) -> Answer:
        """As `Processes.waiting`."""
        return self._processes.waiting(), [], b""

    def do_kill(self, target: int) -> Answer:
        """End a process, or with a negative number a group of processes."""
        kill(target)
        return _DONE

    def do_kill_new(self, before: list[int]) -> Answer:
        """End every process but the shell and those that were there before."""
        self._processes.kill_new(before)
        return _DONE

    def do_end_others(self) -> Answer:
        """End every other process."""
        self._processes.end_all()
        return _DONE

    def do_freeze(self) -> Answer:
        """Stop every other process where it is."""
        freeze()
        return _DONE

    def do_thaw(self) -> Answer:
        """Let them go on."""
        thaw()
        return _DONE


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
