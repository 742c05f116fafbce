"""A machine in a bubblewrap sandbox: everything it writes lies in its own memory, and is gone with
it.
"""

import atexit
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

from envs.sandbox.isolation import means
from envs.sandbox.privileges import prefix, start_thread
from envs.terminal_bench.machine import Came, File, MachineGone, Ran, Shown
from envs.terminal_bench.sandbox.bubble import Bubble, Gone, wait_any
from envs.terminal_bench.sandbox.options import Root, environment
from envs.terminal_bench.sandbox.shell import Output, Shell
from envs.terminal_bench.sandbox.size import Size
from r2v_dist.errors import RuntimeFailure, UsageError

T = TypeVar("T")
_KEEP_BYTES = 64 << 10
_MOST_ENTRIES = 4000
_MOST_SNAPSHOT = 16 << 20
_CHUNK = 1 << 16
_START_S = 20.0
_PUT_AT_NS = 1_685_577_600 * 10**9
"""Files that are put in are as old in every replay."""


_first = threading.Lock()


def _starter() -> ThreadPoolExecutor:
    """The thread that all sandboxes of this process are started in, and end with."""
    with _first:
        return _the_starter()


@cache
def _the_starter() -> ThreadPoolExecutor:
    thread = start_thread()
    atexit.register(thread.shutdown)
    return thread


def require_bubblewrap(root: Path | None = None) -> None:
    """Raises UsageError where terminals cannot be isolated, for which nothing weaker will do, or
    where there is no such root.
    """
    isolation = means().isolation
    if isolation.level != "bubblewrap":
        raise UsageError(
            f"env.terminal.backend = sandbox: isolation here is only {isolation.level!r} "
            f"({isolation.detail}); install bubblewrap, or set env.terminal.backend: docker"
        )
    if root is None:
        return
    if not (root / "usr" / "bin" / "bash").exists():
        raise UsageError(
            f"env.terminal.root = {root}: there is no usr/bin/bash in it; make one with "
            f"`make terminal-root`"
        )
    if prefix().is_relative_to("/usr"):
        raise UsageError(
            f"env.terminal.root = {root}: r2v's own Python lies in /usr, which the root replaces; "
            f"install r2v with a Python elsewhere (pyenv, uv), or leave the key out"
        )


@dataclass
class SandboxMachine:
    """A machine of the back end `sandbox`."""

    root: Root
    size: Size
    variables: dict[str, str] = field(default_factory=environment)
    built: bool = False

    def __post_init__(self) -> None:
        require_bubblewrap(self.root.folder)
        size = self.size
        future = _starter().submit(
            Bubble, self.root, size.disk_mib, size.memory_mib, size.processes, means().hierarchy
        )
        self._bubble = future.result()
        self._shell: Shell | None = None
        self._others = frozenset[int]()
        self._can_pack = False
        self._last_folder = "/"
        self._closed = False
        try:
            self._bubble.wait_ready()
            grouped = means().hierarchy is not None
            watched = 0 if grouped else size.memory_mib << 20
            self._bubble.ask("limit", size.rlimits(grouped), watched)
        except BaseException:
            self.close()
            raise

    def put(self, files: Mapping[str, File]) -> None:
        entries = [
            (path, "file", file.mode, _PUT_AT_NS, file.content) for path, file in files.items()
        ]
        self._ask(lambda: self._bubble.ask("unpack", entries))

    def make_folders(self, paths: Sequence[str]) -> None:
        entries = [(path, "folder", 0o755, 0, b"") for path in paths]
        self._ask(lambda: self._bubble.ask("unpack", entries))

    def run(
        self, argv: Sequence[str], folder: str, environment: Mapping[str, str], wait_s: float
    ) -> Ran:
        variables = self.variables | dict(environment)
        reply = self._ask(lambda: self._bubble.ask("run", list(argv), variables, folder))
        process, out = int(reply.value), reply.fds[0]
        output = Output(_KEEP_BYTES)
        try:
            code = self._ask(lambda: self._follow(process, out, output, wait_s))
        finally:
            os.close(out)
        return Ran(code, output.kept())

    def _follow(self, process: int, out: int, output: Output, wait_s: float) -> int | None:
        """The exit code of a program, or None at the deadline; the output that it left behind in
        the pipe is read, that of its daemons is not waited for.
        """
        os.set_blocking(out, False)
        deadline = time.monotonic() + wait_s
        control = self._bubble.control.fileno()
        open_fds = [out, control]
        while (remaining_s := deadline - time.monotonic()) > 0:
            ready_fds = wait_any(open_fds, remaining_s)
            if out in ready_fds and not self._take(out, output):
                open_fds = [control]
            if control in ready_fds:
                self._bubble.poll()
            if process in self._bubble.ended:
                while self._take(out, output):
                    pass
                return self._bubble.ended[process]
        self._bubble.ask("kill", -process)
        return None

    @staticmethod
    def _take(out: int, output: Output) -> bool:
        try:
            data = os.read(out, _CHUNK)
        except BlockingIOError:
            return False
        output.add(data)
        return bool(data)

    def open_shell(self, folder: str, environment: Mapping[str, str]) -> None:
        self.variables = self.variables | dict(environment)
        self._ask(lambda: self._new_shell(folder))
        self._ask(self._look)

    def _new_shell(self, folder: str) -> None:
        if self._shell is not None:
            self._shell.close()
        self._shell = Shell(self._bubble, folder, self.variables, _KEEP_BYTES)
        self._shell.start(":")  # it is there when this has ended
        self._shell.rest(Output(0), _START_S)

    def command(self, text: str, wait_s: float) -> Shown:
        shell = self._open()
        if shell.busy:
            return self.keys(text.encode("utf-8", "replace") + b"\n", wait_s)
        return self._ask(lambda: self._act(lambda: shell.start(text), wait_s))

    def keys(self, typed: bytes, wait_s: float) -> Shown:
        shell = self._open()
        return self._ask(lambda: self._act(lambda: shell.type(typed), wait_s))

    def _act(self, begin: Callable[[], None], wait_s: float) -> Shown:
        shell = self._open()
        output = Output(_KEEP_BYTES)
        begin()
        if not shell.busy:  # keys into an idle terminal: nothing marks an end
            shell.rest(output, min(wait_s, 0.3))
            outcome: Came | None = Came.ENDED
            code: int | None = None
        else:
            outcome, code = shell.rest(output, wait_s)
        if outcome is None:
            outcome = shell.interrupt(output, self._others)
            code = 130
        if outcome in (Came.SHELL_ENDED, Came.SHELL_KILLED):
            self._new_shell(self._last_folder)
        change_count, folder = self._look()
        return Shown(output.kept(), outcome, code, folder, change_count)

    def _look(self) -> tuple[int | None, str]:
        change_count, pids, folder = self._bubble.ask("look", _MOST_ENTRIES).value
        self._others = frozenset(pids)
        self._last_folder = folder
        self._can_pack = not pids and change_count is not None
        return change_count, folder

    def snapshot(self) -> bytes | None:
        shell = self._shell
        if not self._can_pack or shell is None or shell.busy:
            return None
        if not self._ask(shell.dump_state):
            return None
        reply = self._ask(lambda: self._bubble.ask("pack", _MOST_ENTRIES, _MOST_SNAPSHOT))
        self._ask(lambda: self._bubble.ask("forget"))
        return reply.payload if reply.value else None

    def restore(self, snapshot: bytes) -> None:
        if not self._ask(lambda: self._bubble.ask("wipe")).value:
            raise MachineGone("what an episode left in it cannot be removed")
        self._ask(lambda: self._bubble.ask("restore", snapshot))
        self._ask(lambda: self._new_shell("/"))
        self._ask(self._look)

    def stamps(self, folder: str) -> dict[str, tuple[int, int]]:
        entries = self._ask(lambda: self._bubble.ask("stamps", folder)).value
        return {path: (number, change_ns) for path, number, change_ns in entries}

    def holds(self, files: Mapping[str, File]) -> bool:
        contents = [(path, file.content) for path, file in files.items()]
        return bool(self._ask(lambda: self._bubble.ask("holds", contents)).value)

    def read(self, path: str) -> bytes | None:
        reply = self._ask(lambda: self._bubble.ask("read", path, _CHUNK))
        return reply.payload if reply.value else None

    def programs(self) -> list[str]:
        lines = self._ask(lambda: self._bubble.ask("programs")).value
        return [str(line) for line in lines]

    def mend(self) -> None:
        self._ask(lambda: self._bubble.ask("mend"))

    def freeze(self) -> None:
        self._ask(lambda: self._bubble.ask("freeze"))

    def thaw(self) -> None:
        self._ask(lambda: self._bubble.ask("thaw"))

    def end_processes(self) -> None:
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        self._ask(lambda: self._bubble.ask("end_others"))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._shell is not None:
            self._shell.close()
        self._bubble.close()

    def _open(self) -> Shell:
        if self._shell is None:
            raise RuntimeFailure("a terminal's shell was used before it was opened")
        return self._shell

    def _ask(self, call: Callable[[], T]) -> T:
        """The answer of the sandbox. Raises MachineGone where it has ended."""
        try:
            return call()
        except Gone as error:
            reason = "it used too much memory" if self._bubble.out_of_memory() else str(error)
            raise MachineGone(reason) from error
