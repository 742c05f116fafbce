"""One started sandbox of a terminal, and the conversation with its supervisor. Invariant: after
`close` no process of it is left, and whoever kills this process kills the sandbox with it.

Every wait has a deadline; a supervisor that does not answer in time, or ended, is `Gone`.
"""

import ast
import json
import marshal
import os
import selectors
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from envs.sandbox import seccomp
from envs.sandbox.cgroups import Group, Hierarchy
from envs.sandbox.privileges import nobody
from envs.sandbox.streams import readable
from envs.terminal_bench.sandbox.options import Root, command, options
from r2v_dist.errors import RuntimeFailure

START_S = 60.0
ANSWER_S = 30.0
_MOST_TEXT = 16 << 20
_MOST_PAYLOAD = 512 << 20
_MOST_FDS = 4
_CHUNK = 1 << 16


class Gone(Exception):
    """The sandbox ended: a lack of memory, or an attack on its supervisor."""


@dataclass(frozen=True)
class Reply:
    """An answer: a plain value, raw bytes, and descriptors, which are the caller's to close."""

    value: Any
    payload: bytes
    fds: list[int]


class Bubble:
    """Starts at once. Must be made in the thread of a `starter` that outlives it."""

    def __init__(
        self,
        root: Root,
        disk_mib: int,
        memory_mib: int,
        processes: int,
        hierarchy: Hierarchy | None,
    ) -> None:
        self._group = Group(hierarchy) if hierarchy else None
        self._init_fd = -1
        self.ended: dict[int, int] = {}
        """Exit codes of the shells and programs that ended."""
        outside, inside = socket.socketpair()
        self.control = outside
        self._status_fd, status_end = os.pipe()
        try:
            self._process = self._start(root, disk_mib, status_end, inside)
            if self._group:
                self._group.limit(memory_mib, processes)
        except OSError as error:
            self._release()
            raise RuntimeFailure(f"a terminal's sandbox did not start: {error}") from error
        finally:
            inside.close()
            os.close(status_end)

    def _start(
        self, root: Root, disk_mib: int, status_fd: int, inside: socket.socket
    ) -> subprocess.Popen[bytes]:
        options_fd, options_end = os.pipe()
        inherited = [status_fd, options_fd, inside.fileno()]
        code = seccomp.program(terminal=True)
        seccomp_fd = None
        if code is not None:
            seccomp_fd, writer = os.pipe()
            inherited.append(seccomp_fd)
            os.write(writer, code)
            os.close(writer)
        try:
            with nobody():
                process = subprocess.Popen(
                    command(options_fd, inside.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    pass_fds=inherited,
                    env={"PATH": os.environ.get("PATH", os.defpath)},
                )
            try:
                # bubblewrap waits for its options, so every process it starts is in the group.
                if self._group:
                    self._group.admit(process.pid)
                named = options(root, disk_mib, status_fd, seccomp_fd)
                os.write(options_end, b"".join(option.encode() + b"\0" for option in named))
            except OSError:
                process.kill()
                process.wait()
                raise
            return process
        finally:
            os.close(options_fd)
            os.close(options_end)
            if seccomp_fd is not None:
                os.close(seccomp_fd)

    def wait_ready(self) -> None:
        """Wait for the supervisor. Raises RuntimeFailure, with the reason, where there is none."""
        try:
            self._answer(START_S)
        except Gone:
            raise RuntimeFailure(
                f"a terminal's sandbox did not start: {self._complaint()}"
            ) from None

    def ask(self, request: str, *arguments: object, wait_s: float = ANSWER_S) -> "Reply":
        """The answer to a request. Raises Gone."""
        message: Any = (request, *arguments)
        body = marshal.dumps(message)
        try:
            self.control.settimeout(wait_s)
            self.control.sendall(len(body).to_bytes(8, "little") + body)
            return self._answer(wait_s)
        except OSError as error:  # a time-out is one
            raise Gone(str(error)) from error

    def poll(self) -> None:
        """Take in what ended, without waiting."""
        while readable(self.control.fileno(), 0):
            self._reply(ANSWER_S)

    def _answer(self, wait_s: float) -> "Reply":
        deadline = time.monotonic() + wait_s
        while True:
            reply = self._reply(max(0.0, deadline - time.monotonic()))
            if reply is not None:
                return reply

    def _reply(self, wait_s: float) -> "Reply | None":
        """One message; None for a note that something ended."""
        self.control.settimeout(max(wait_s, 1e-3))
        try:
            head, fds, _, _ = socket.recv_fds(self.control, 16, _MOST_FDS)
            head += self._exactly(16 - len(head))
            length = int.from_bytes(head[:8], "little")
            payload = int.from_bytes(head[8:], "little")
            if length > _MOST_TEXT or payload > _MOST_PAYLOAD:
                raise Gone("its supervisor sends too much")
            kind, *rest = ast.literal_eval(self._exactly(length).decode("ascii"))
            if kind == "answer":
                return Reply(rest[0], self._exactly(payload), fds)
            self.ended[int(rest[0])] = int(rest[1])
            return None
        except (OSError, ValueError, TypeError, SyntaxError) as error:
            raise Gone(f"its supervisor does not answer: {error}") from error

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self.control.recv(min(count, 1 << 20))
            if not part:
                raise Gone("its supervisor ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def out_of_memory(self) -> bool:
        """Whether the kernel ended a process because all together used too much."""
        return self._group is not None and self._group.out_of_memory()

    def close(self) -> None:
        """End every process and release every resource."""
        self._find_init()
        if self._init_fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
            if not readable(self._init_fd, START_S):
                raise RuntimeFailure(f"a sandbox could not be ended within {START_S:.0f} s")
        if self._process.poll() is None and self._init_fd < 0:
            self._process.kill()
        self._process.wait(START_S)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._release()

    def _find_init(self) -> None:
        """Open the first process of the namespace, whose number bubblewrap writes before it starts
        the supervisor.
        """
        status = b""
        while self._init_fd < 0 and b"\n" not in status:
            part = os.read(self._status_fd, _CHUNK) if readable(self._status_fd, 5.0) else b""
            if not part:
                return
            status += part
        if self._init_fd < 0 and self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._init_fd = os.pidfd_open(json.loads(status.splitlines()[0])["child-pid"])

    def _complaint(self) -> str:
        self._process.kill()
        _, said = self._process.communicate(timeout=START_S)
        lines = said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with status {self._process.returncode}"

    def _release(self) -> None:
        self.control.close()
        for fd in (self._status_fd, self._init_fd):
            if fd >= 0:
                os.close(fd)
        if self._group:
            self._group.remove()


def wait_any(fds: list[int], seconds: float) -> list[int]:
    """The descriptors that can be read, as soon as there is one."""
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        return [key.fd for key, _ in selector.select(max(0.0, seconds))]
