"""One started sandbox, for one program. Invariant: when `run` returns, no process of the program is
left.

The kernel ends every process of a PID namespace with its first process. That first process is ours
(`supervisor.py`): when the program has ended, it ends all other processes and reports. When the
program does not end, the first process is killed (`namespace.py`). Removing the empty sandbox takes
the kernel longer than many a program runs, so `discard` does it separately.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

from envs.sandbox import bubblewrap, seccomp
from envs.sandbox.cgroups import Group, Hierarchy
from envs.sandbox.deadline import Deadline
from envs.sandbox.limits import Completed, Ending, Limits
from envs.sandbox.namespace import START_S, Namespace, end_group, last_words
from envs.sandbox.protocol import decode_report, encode
from envs.sandbox.streams import Streams, readable
from r2v_dist.errors import RuntimeFailure

_CHUNK = 1 << 16


class SandboxProcess:
    """Starts at once, in the background. Without bubblewrap (`bubblewrapped=False`) it has only
    rlimits and a process group.
    """

    def __init__(
        self, limits: Limits, hierarchy: Hierarchy | None, bubblewrapped: bool = True
    ) -> None:
        """Must be called in the thread of a `start_thread` that outlives the sandbox: the sandbox
        ends with the thread that started it.
        """
        self.file_mib = limits.file_mib
        self._group = Group(hierarchy) if hierarchy else None
        self._scratch: Path | None = None
        self._namespace: Namespace | None = None
        # A pipe could be opened again at /proc/PID/fd by any process of the same user.
        outside, inside = socket.socketpair()
        self._report_fd = outside.detach()
        self._report_inside = inside.detach()
        try:
            if bubblewrapped:
                self._namespace = self._bubblewrap()
            self._process = self._namespace.process if self._namespace else self._bare()
        except OSError as error:
            self._release()
            raise RuntimeFailure(f"a sandbox did not start: {error}") from error
        finally:
            os.close(self._report_inside)
        self._exit_fd = os.pidfd_open(self._process.pid)
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)
        self._stderr = cast(IO[bytes], self._process.stderr)

    def _bubblewrap(self) -> Namespace:
        options = bubblewrap.options(4 * self.file_mib)
        program = bubblewrap.interpreter()
        inherited_fds = [self._report_inside]
        return Namespace(
            options, program, seccomp.program(), self._group, inherited_fds, piped=True
        )

    def _bare(self) -> subprocess.Popen[bytes]:
        self._scratch = Path(tempfile.mkdtemp(prefix="r2v-program-"))
        (self._scratch / "work").mkdir()
        return subprocess.Popen(
            bubblewrap.interpreter(),
            bufsize=0,  # this side reads and writes the descriptors itself
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C is this process's to handle
            pass_fds=[self._report_inside],
            cwd=self._scratch / "work",
            env=bubblewrap.ENVIRONMENT,
        )

    def wait_ready(self) -> None:
        """Wait until the interpreter waits for its program. Raises RuntimeFailure, with the reason,
        when it does not start.
        """
        if not readable(self._stdout.fileno(), START_S):
            raise RuntimeFailure(
                f"a sandbox did not start within {START_S:.0f} s; is the machine overloaded?"
            )
        greeting = os.read(self._stdout.fileno(), 1)
        if self._namespace:
            self._namespace.find_first()
        if greeting != b"\n" or self._over():
            self._kill()
            raise RuntimeFailure(f"a sandbox did not start: {last_words(self._process)}")

    def run(
        self, source: str, files: Mapping[str, bytes], stdin: bytes, limits: Limits
    ) -> Completed:
        """Run `source`. Raises RuntimeFailure when something from outside ended it, and ValueError
        for a bad file name."""
        private = self._namespace is not None
        message = encode(source, files, limits.rlimits(private), self._report_inside)
        if self._group:
            self._group.limit(limits.memory_mib, limits.processes)
        process = self._namespace.first if self._namespace else self._process.pid
        cpu_s = self._group.cpu_s if self._group else None
        deadline = Deadline(limits.wall_s, process, private, cpu_s)
        start_s = time.monotonic()
        cap = limits.output_kib << 10
        streams = Streams(self._stdin, self._stdout, self._stderr, message + stdin, cap)
        stop = streams.pump((self._report_fd, self._exit_fd), deadline.left)
        wall_s = time.monotonic() - start_s
        report = None if stop else decode_report(os.read(self._report_fd, _CHUNK))
        if report is None or not private:
            self._kill()
        streams.drain()
        if stop is None and streams.flooded:
            stop = Ending.OUTPUT_LIMIT
        if stop is not None:
            return Completed(stop, None, streams.output, streams.errors, wall_s)
        ending, code = self._ending(report, limits, streams.errors)
        return Completed(ending, code, streams.output, streams.errors, wall_s)

    def _ending(
        self, report: tuple[int, float] | None, limits: Limits, stderr: bytes
    ) -> tuple[Ending, int]:
        out_of_memory = self._group is not None and self._group.out_of_memory()
        private = self._namespace is not None
        if report is None and private and self._process.returncode < 0 and not out_of_memory:
            raise RuntimeFailure(
                f"a sandbox was ended from outside by signal {-self._process.returncode}"
            )
        # Without a report the supervisor was ended too, by a lack of memory or an attack on it.
        code, cpu_s = report or (-signal.SIGKILL, 0.0)
        was_killed = code == -signal.SIGKILL
        last_line = stderr.rstrip().rpartition(b"\n")[2]
        raised_memory_error = code == 1 and last_line == b"MemoryError"
        if raised_memory_error or (was_killed and out_of_memory):
            return Ending.MEMORY, code
        if code == -signal.SIGXCPU or (was_killed and cpu_s >= limits.cpu_s):
            return Ending.CPU_LIMIT, code
        return (Ending.SIGNALLED if code < 0 else Ending.EXITED), code

    def _over(self) -> bool:
        return readable(self._exit_fd, 0)

    def _kill(self) -> None:
        """End every process, and wait until they are gone. Raises RuntimeFailure when the kernel
        does not end them.
        """
        if self._namespace:
            self._namespace.end()
        else:
            end_group(self._process)

    def discard(self) -> None:
        """End every process that is left and release every resource."""
        self._kill()
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()
        os.close(self._exit_fd)
        self._release()

    def _release(self) -> None:
        os.close(self._report_fd)
        if self._namespace:
            self._namespace.release()
        if self._group:
            self._group.remove()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
