"""One started sandbox, for one program. Invariant: when `run` returns, no process of the program is
left.

The kernel ends every process of a PID namespace with its first process. That first process is ours
(`supervisor.py`): when the program has ended, it ends all other processes and reports. When the
program does not end, the first process is killed through a descriptor, which unlike a number never
comes to mean another process. Removing the empty sandbox takes the kernel longer than many a
program runs, so `discard` does it separately.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from envs.sandbox import bubblewrap, seccomp
from envs.sandbox.cgroups import Group, Hierarchy
from envs.sandbox.deadline import Deadline
from envs.sandbox.limits import Completed, Ending, Limits
from envs.sandbox.privileges import nobody
from envs.sandbox.protocol import decode_report, encode
from envs.sandbox.streams import Streams, readable
from r2v_dist.errors import RuntimeFailure

START_S = 60.0
"""Deadline for a sandbox to be ready; a busy machine takes a few seconds."""
END_S = 60.0
_CHUNK = 1 << 16


class SandboxProcess:
    """Starts at once, in the background. Without bubblewrap (`bubblewrapped=False`) it has only
    rlimits and a process group.
    """

    def __init__(
        self, limits: Limits, hierarchy: Hierarchy | None, bubblewrapped: bool = True
    ) -> None:
        """Must be called in the thread of a `starter` that outlives the sandbox: the sandbox ends
        with the thread that started it.
        """
        self.file_mib = limits.file_mib
        self._private = bubblewrapped
        self._group = Group(hierarchy) if hierarchy else None
        self._scratch: Path | None = None
        self._init = -1
        self._init_fd = -1
        self._status_fd = -1
        # A pipe could be opened again at /proc/PID/fd by any process of the same user.
        outside, inside = socket.socketpair()
        self._report_fd = outside.detach()
        self._report_inside = inside.detach()
        try:
            self._process = self._bubblewrap() if bubblewrapped else self._bare()
        except OSError as error:
            self._release()
            raise RuntimeFailure(f"a sandbox did not start: {error}") from error
        finally:
            os.close(self._report_inside)
        self._exit_fd = os.pidfd_open(self._process.pid)
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._stdout = cast(IO[bytes], self._process.stdout)
        self._stderr = cast(IO[bytes], self._process.stderr)

    def _bubblewrap(self) -> subprocess.Popen[bytes]:
        self._status_fd, status_fd = os.pipe()
        options_fd, options_end = os.pipe()
        inherited = [status_fd, options_fd]
        seccomp_fd = None
        code = seccomp.program()
        if code is not None:
            seccomp_fd, writer = os.pipe()
            inherited.append(seccomp_fd)
            os.write(writer, code)
            os.close(writer)
        options = bubblewrap.options(4 * self.file_mib, status_fd, seccomp_fd)
        try:
            # bubblewrap gets an empty environment too: a program could read keys and tokens in
            # /proc.
            environment = {"PATH": os.environ.get("PATH", os.defpath)}
            command = bubblewrap.command(options_fd)
            with nobody():
                process = _start(command, environment, [*inherited, self._report_inside])
            try:
                # bubblewrap waits for its options, so every process that it starts is in the group.
                if self._group:
                    self._group.admit(process.pid)
                os.write(options_end, b"".join(option.encode() + b"\0" for option in options))
            except OSError:
                process.kill()
                process.wait()
                raise
            return process
        finally:
            for fd in (*inherited, options_end):
                os.close(fd)

    def _bare(self) -> subprocess.Popen[bytes]:
        self._scratch = Path(tempfile.mkdtemp(prefix="r2v-program-"))
        (self._scratch / "work").mkdir()
        return _start(
            bubblewrap.interpreter(),
            bubblewrap.ENVIRONMENT,
            [self._report_inside],
            self._scratch / "work",
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
        if self._private:
            self._find_init()
        if greeting != b"\n" or self._over():
            raise RuntimeFailure(f"a sandbox did not start: {self._complaint()}")

    def run(
        self, source: str, files: Mapping[str, bytes], stdin: bytes, limits: Limits
    ) -> Completed:
        """Run `source`. Raises RuntimeFailure when something from outside ended it, and ValueError
        for a bad file name."""
        message = encode(source, files, limits.rlimits(self._private), self._report_inside)
        if self._group:
            self._group.limit(limits.memory_mib, limits.processes)
        process = self._init if self._private else self._process.pid
        cpu_s = self._group.cpu_s if self._group else None
        deadline = Deadline(limits.wall_s, process, self._private, cpu_s)
        started = time.monotonic()
        cap = limits.output_kib << 10
        streams = Streams(self._stdin, self._stdout, self._stderr, message + stdin, cap)
        stopped = streams.pump((self._report_fd, self._exit_fd), deadline.left)
        wall_s = time.monotonic() - started
        report = None if stopped else decode_report(os.read(self._report_fd, _CHUNK))
        if report is None or not self._private:
            self._kill()
        streams.drain()
        if stopped is None and streams.flooded:
            stopped = Ending.OUTPUT_LIMIT
        if stopped is not None:
            return Completed(stopped, None, streams.output, streams.errors, wall_s)
        ending, code = self._ending(report, limits, streams.errors)
        return Completed(ending, code, streams.output, streams.errors, wall_s)

    def _ending(
        self, report: tuple[int, float] | None, limits: Limits, stderr: bytes
    ) -> tuple[Ending, int]:
        out_of_memory = self._group is not None and self._group.out_of_memory()
        if report is None and self._private and self._process.returncode < 0 and not out_of_memory:
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

    def _complaint(self) -> str:
        self._kill()
        text = os.read(self._stderr.fileno(), _CHUNK).decode(errors="replace").strip()
        if not text:
            return f"it ended with status {self._process.returncode} and no message"
        return text.splitlines()[-1]

    def _find_init(self) -> None:
        """Open the first process of the namespace, whose number bubblewrap writes before the
        interpreter starts. The number is valid only while its parent, bubblewrap, has not ended.
        """
        status = b""
        while b"\n" not in status:  # written piece by piece
            part = os.read(self._status_fd, _CHUNK) if readable(self._status_fd, START_S) else b""
            if not part:
                return
            status += part
        if not self._over():
            self._init = json.loads(status.splitlines()[0])["child-pid"]
            self._init_fd = os.pidfd_open(self._init)

    def _kill(self) -> None:
        """End every process, and wait until they are gone. Raises RuntimeFailure when the kernel
        does not end them.
        """
        # An orphan would stay until the host's first process waits for it, which in a container may
        # never happen.
        if self._private and self._init_fd < 0:
            self._find_init()
        if self._init_fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
            if not readable(self._init_fd, END_S):
                raise RuntimeFailure(f"a sandbox could not be ended within {END_S:.0f} s")
            # bubblewrap then ends by itself. Killed earlier, it would leave its child an orphan.
            readable(self._exit_fd, END_S)
        if self._process.returncode is None:  # after the wait its number may be another process's
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(END_S)

    def discard(self) -> None:
        """End every process that is left and release every resource."""
        self._kill()
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()
        os.close(self._exit_fd)
        self._release()

    def _release(self) -> None:
        for fd in (self._report_fd, self._status_fd, self._init_fd):
            if fd >= 0:
                os.close(fd)
        if self._group:
            self._group.remove()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _start(
    arguments: list[str], env: Mapping[str, str], pass_fds: Sequence[int], cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        arguments,
        bufsize=0,  # this side reads and writes the descriptors itself
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that Ctrl-C is this process's to handle
        pass_fds=pass_fds,
        cwd=cwd,
        env=env,
    )
