"""The three pipes of a running program. Invariant: no program can block this side or fill its
memory.
"""

import os
import select
import selectors
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

from envs.sandbox.limits import Ending

_CHUNK = 1 << 16
_CRUMB = 1 << 10
_CRUMBS = 500
"""After this number of writes of fewer than `_CRUMB` bytes this side pauses before it reads: a
program could otherwise cost it more work than the program does itself.
"""
_GATHER_S = 0.002


class Streams:
    """Feeds `pending` to standard input and keeps at most `cap` bytes of each output."""

    def __init__(
        self, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes], pending: bytes, cap: int
    ) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._pending = memoryview(pending)
        self._cap = cap
        self._buffers: dict[IO[bytes], bytearray] = {stdout: bytearray(), stderr: bytearray()}
        for stream in (stdin, stdout, stderr):
            os.set_blocking(stream.fileno(), False)

    @property
    def output(self) -> bytes:
        """Standard output, as far as it was kept."""
        return bytes(memoryview(self._buffers[self._stdout])[: self._cap])

    @property
    def errors(self) -> bytes:
        """Standard error, as far as it was kept."""
        return bytes(memoryview(self._buffers[self._stderr])[: self._cap])

    @property
    def _taken(self) -> int:
        return sum(map(len, self._buffers.values()))

    @property
    def flooded(self) -> bool:
        """Whether either output was longer than allowed."""
        return any(len(buffer) > self._cap for buffer in self._buffers.values())

    def pump(self, end_fds: Sequence[int], left: Callable[[], float]) -> Ending | None:
        """Move bytes until one of `end_fds` is readable (None), an output is longer than `cap`, or
        `left()` is 0.
        """
        with selectors.DefaultSelector() as selector:
            for fd in end_fds:
                selector.register(fd, selectors.EVENT_READ)
            selector.register(self._stdin, selectors.EVENT_WRITE)
            for stream in self._buffers:
                selector.register(stream, selectors.EVENT_READ)
            crumbs = 0
            while not self.flooded:
                if crumbs > _CRUMBS:
                    time.sleep(_GATHER_S)
                taken_before = self._taken
                remaining = left()
                if remaining <= 0:
                    return Ending.TIMEOUT
                for key, _ in selector.select(remaining):
                    if key.fileobj is self._stdin:
                        if self._feed():
                            selector.unregister(self._stdin)
                            self._stdin.close()
                    elif key.fd in end_fds:
                        return None
                    elif self._take(key.fileobj):  # type: ignore[arg-type]
                        selector.unregister(key.fileobj)
                crumbs += 0 < self._taken - taken_before < _CRUMB
        return Ending.OUTPUT_LIMIT

    def drain(self) -> None:
        """Read the bytes that are in the pipes, without waiting: a process that escaped a sandbox
        without bubblewrap may hold them open.
        """
        for stream, buffer in self._buffers.items():
            while len(buffer) <= self._cap and not self._take(stream):
                pass

    def _feed(self) -> bool:
        """Write as much as the pipe takes; True when nothing is left to write, or the pipe has no
        reader.
        """
        try:
            count = os.write(self._stdin.fileno(), self._pending[:_CHUNK])
        except BrokenPipeError:
            return True
        except BlockingIOError:  # the program can open its input for writing, and was quicker
            return False
        self._pending = self._pending[count:]
        return not self._pending

    def _take(self, stream: IO[bytes]) -> bool:
        """Read once; True at the end of the stream, and where no bytes are available."""
        with suppress(BlockingIOError):
            chunk = os.read(stream.fileno(), _CHUNK)
            self._buffers[stream] += chunk
            return not chunk
        return True


def readable(fd: int, seconds: float) -> bool:
    """Whether `fd` is readable within `seconds`. Unlike `select` it takes any number of
    open files.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(1e3 * seconds))
