"""Sandboxes for untrusted programs. Invariant: every program has a fresh sandbox, which no other
program uses, and no process of it is left when its run returns.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Self

from envs.sandbox.isolation import means
from envs.sandbox.limits import Completed, Limits
from envs.sandbox.privileges import start_thread
from envs.sandbox.process import SandboxProcess
from r2v_dist.errors import RuntimeFailure, UsageError

_NO_FILES: Mapping[str, bytes] = MappingProxyType({})
_ATTEMPTS = 3
_CONCURRENT = 64
"""Most programs at once through `arun`; more of them wait."""


class Sandbox:
    """Runs Python programs. Keeps `warm` sandboxes whose interpreter has started; thread-safe; a
    context manager.

    Raises UsageError where isolation is weaker than bubblewrap and `allow_weaker` is not set, and
    where there is none.
    """

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        warm: int = 2,
        allow_weaker: bool = False,
    ) -> None:
        isolation = means().isolation
        if isolation.level == "none" or (isolation.level != "bubblewrap" and not allow_weaker):
            raise UsageError(
                f"sandbox.allow_weaker = {str(allow_weaker).lower()}: isolation here is only "
                f"{isolation.level!r} ({isolation.detail}); "
                "install bubblewrap, or set sandbox.allow_weaker: true to run model-written code "
                "with what there is"
            )
        self.limits = limits
        self._bubblewrapped = isolation.level == "bubblewrap"
        self._starter = start_thread(self._bubblewrapped)
        self._runners = ThreadPoolExecutor(_CONCURRENT, "sandbox-runner")
        self._janitors = ThreadPoolExecutor(4, "sandbox-janitor")
        self._lock = threading.Lock()
        self._size = warm
        self._closed = False
        self._warm: deque[Future[SandboxProcess]] = deque()
        self._refill()

    def run(
        self,
        source: str,
        stdin: bytes = b"",
        files: Mapping[str, bytes] = _NO_FILES,
        limits: Limits | None = None,
    ) -> Completed:
        """Run `source` as the main module of a fresh interpreter, in a writable directory that
        holds `files`.

        The program can import the standard library and `files`, and nothing else. Raises
        RuntimeFailure when no sandbox starts, and ValueError for a file name outside the
        directory. Whatever the program does is an `Ending`.
        """
        limits = limits or self.limits
        process = self._ready(limits)
        try:
            return process.run(source, files, stdin, limits)
        finally:
            self._janitors.submit(process.discard)
            # After the program: starting an interpreter takes a core for longer than many a program
            # runs.
            self._refill()

    async def arun(
        self,
        source: str,
        stdin: bytes = b"",
        files: Mapping[str, bytes] = _NO_FILES,
        limits: Limits | None = None,
    ) -> Completed:
        """As `run`, in a thread of this object. The program of a cancelled caller runs on to its
        limit.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._runners, self.run, source, stdin, files, limits
        )

    def close(self) -> None:
        """Wait for programs of `arun`, then end the waiting sandboxes, and any program still run by
        `run`.
        """
        self._runners.shutdown()
        with self._lock:
            self._closed = True
            futures = list(self._warm)
            self._warm.clear()
        for future in futures:
            future.result().discard()
        self._janitors.shutdown()
        self._starter.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self, limits: Limits) -> SandboxProcess:
        """A sandbox that waits for its program. A sandbox that ended while it waited (after idle
        hours, or for lack of memory) is replaced.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            process = self._take(limits).result()
            try:
                process.wait_ready()
            except RuntimeFailure:
                process.discard()
                if attempt == _ATTEMPTS:
                    raise
            else:
                return process
        raise AssertionError("unreachable")

    def _take(self, limits: Limits) -> Future[SandboxProcess]:
        with self._lock:
            # The size of /tmp is fixed at the start.
            fits = self._warm and limits.file_mib == self.limits.file_mib
            return self._warm.popleft() if fits else self._start(limits)

    def _refill(self) -> None:
        with self._lock:
            while len(self._warm) < self._size and not self._closed:
                self._warm.append(self._start(self.limits))

    def _start(self, limits: Limits) -> Future[SandboxProcess]:
        return self._starter.submit(SandboxProcess, limits, means().hierarchy, self._bubblewrapped)
