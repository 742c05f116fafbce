"""One started sandbox of a terminal, and the conversation with its supervisor. Invariant: after
`close` no process of it is left, and whoever kills this process kills the sandbox with it.

Every wait has a deadline; a supervisor that does not answer in time, or ended, is `Gone`.
"""

import ast
import marshal
import selectors
import socket
import time
from dataclasses import dataclass
from typing import Any

from envs.sandbox import seccomp
from envs.sandbox.cgroups import Group, Hierarchy
from envs.sandbox.namespace import START_S, Namespace, last_words
from envs.sandbox.streams import readable
from envs.terminal_bench.sandbox.options import Root, options, program
from r2v_dist.errors import RuntimeFailure

ANSWER_S = 30.0
_MOST_TEXT = 16 << 20
_MOST_PAYLOAD = 512 << 20
_MOST_FDS = 4


class Gone(Exception):
    """The sandbox ended: a lack of memory, or an attack on its supervisor."""


@dataclass(frozen=True)
class Reply:
    """An answer: a plain value, raw bytes, and descriptors, which are the caller's to close."""

    value: Any
    payload: bytes
    fds: list[int]


class Bubble:
    """Starts at once. Must be made in the thread of a `start_thread` that outlives it."""

    def __init__(
        self,
        root: Root,
        disk_mib: int,
        memory_mib: int,
        processes: int,
        hierarchy: Hierarchy | None,
    ) -> None:
        self._group = Group(hierarchy) if hierarchy else None
        self.ended: dict[int, int] = {}
        """Exit codes of the shells and programs that ended."""
        self._namespace: Namespace | None = None
        outside, inside = socket.socketpair()
        self.control = outside
        try:
            self._namespace = Namespace(
                options(root, disk_mib),
                [*program(), str(inside.fileno())],
                seccomp.program(terminal=True),
                self._group,
                [inside.fileno()],
            )
            if self._group:
                self._group.limit(memory_mib, processes)
        except OSError as error:
            self.close()
            raise RuntimeFailure(f"a terminal's sandbox did not start: {error}") from error
        finally:
            inside.close()

    def wait_ready(self) -> None:
        """Wait for the supervisor. Raises RuntimeFailure, with the reason, where there is none."""
        try:
            self._answer(START_S)
        except Gone:
            assert self._namespace is not None
            self._namespace.end()
            reason = last_words(self._namespace.process)
            raise RuntimeFailure(f"a terminal's sandbox did not start: {reason}") from None

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
            kind, *values = ast.literal_eval(self._exactly(length).decode("ascii"))
            if kind == "answer":
                return Reply(values[0], self._exactly(payload), fds)
            self.ended[int(values[0])] = int(values[1])
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
        if self._namespace:
            self._namespace.end()
        self._release()

    def _release(self) -> None:
        self.control.close()
        if self._namespace:
            self._namespace.release()
        if self._group:
            self._group.remove()


def wait_any(fds: list[int], seconds: float) -> list[int]:
    """The descriptors that can be read, as soon as there is one."""
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        return [key.fd for key, _ in selector.select(max(0.0, seconds))]
