"""One started sandbox, for one program. When `run` returns, no process of the program is left.

The kernel ends every process of a PID namespace with its first one, whatever they did to hide. That
first process is ours (see
`supervisor.py`): when the program has ended it ends all others and reports; when it does not, it is
killed through a descriptor that cannot come to mean another process. Taking the empty sandbox down
takes the kernel longer than many a program, and is `discard`.
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

from envs.sandbox import bubblewrap as command
from envs.sandbox import seccomp
from envs.sandbox.cgroups import Group, Hierarchy
from envs.sandbox.deadline import Patience
from envs.sandbox.limits import Completed, Ending, Limits
from envs.sandbox.privileges import nobody
from envs.sandbox.protocol import decode_report, encode
from envs.sandbox.streams import Streams, readable
from r2v_dist.errors import RuntimeFailure

START_S = 60.0
"""A sandbox that is not ready by then never will be; a busy machine takes a few seconds."""
END_S = 60.0
_CHUNK = 1 << 16


class Box:
    """Starts at once, in the background. Weak boxes (`bubblewrapped=False`) have only rlimits and a
    process group.
    """

    def __init__(
        self, limits: Limits, hierarchy: Hierarchy | None, bubblewrapped: bool = True
    ) -> None:
        """Must be called in the thread of a `starter` that outlives the box: the sandbox dies with
        the thread that started it.
        """
        self.file_mib = limits.file_mib
        self._private = bubblewrapped
        self._group = Group(hierarchy) if hierarchy else None
        self._scratch: Path | None = None
        self._init = self._init_fd = self._status_fd = -1
        # Not a pipe, which any process of the same user could open again at /proc/PID/fd.
        outside, inside = socket.socketpair()
        self._report_fd = outside.detach()
        self._report_inside = inside.detach()
        try:
            self._process = self._bubblewrap() if bubblewrapped else self._bare()
        except OSError as error:
            self._give_back()
            raise RuntimeFailure(f"a sandbox did not start: {error}") from error
        finally:
            os.close(self._report_inside)
        self._exit_fd = os.pidfd_open(self._process.pid)
        self._stdin, self._stdout, self._stderr = (
            cast(IO[bytes], pipe)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
        )

    def _bubblewrap(self) -> subprocess.Popen[bytes]:
        self._status_fd, status_fd = os.pipe()
        options_fd, options_end = os.pipe()
        inherited = [status_fd, options_fd]
        own = [options_end]
        seccomp_fd = None
        if code := seccomp.program():
            seccomp_fd, writer = os.pipe()
            inherited.append(seccomp_fd)
            os.write(writer, code)
            os.close(writer)
        options = command.options(4 * self.file_mib, status_fd, seccomp_fd)
        try:
            # bubblewrap inherits no environment either: a program could read its keys and tokens in
            # /proc.
            environment = {"PATH": os.environ.get("PATH", os.defpath)}
            with nobody():
                process = _start(
                    command.bubblewrap(options_fd), environment, [*inherited, self._report_inside]
                )
            try:
                # It waits for its options, so nothing that it will start escapes the group.
                if self._group:
                    self._group.admit(process.pid)
                os.write(options_end, b"".join(option.encode() + b"\0" for option in options))
            except OSError:
                process.kill()
                process.wait()
                raise
            return process
        finally:
            for fd in inherited + own:
                os.close(fd)

    def _bare(self) -> subprocess.Popen[bytes]:
        self._scratch = Path(tempfile.mkdtemp(prefix="r2v-program-"))
        (self._scratch / "work").mkdir()
        return _start(
            command.interpreter(),
            command.ENVIRONMENT,
            [self._report_inside],
            self._scratch / "work",
        )

    def wait_ready(self) -> None:
        """Wait until the interpreter waits for its program. Raises RuntimeFailure, with the reason,
        when it never will.
        """
        if not readable(self._stdout.fileno(), START_S):
            raise RuntimeFailure(
                f"a sandbox did not start within {START_S:.0f} s; is the machine overloaded?"
            )
        said = os.read(self._stdout.fileno(), 1)
        if self._private:
            self._meet_init()
        if said != b"\n" or self._over():
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
        patience = Patience(limits.wall_s, process, self._private, cpu_s)
        started = time.monotonic()
        streams = Streams(
            self._stdin, self._stdout, self._stderr, message + stdin, limits.output_kib << 10
        )
        stopped = streams.pump((self._report_fd, self._exit_fd), patience.left)
        wall_s = time.monotonic() - started
        report = None if stopped else decode_report(os.read(self._report_fd, _CHUNK))
        if report is None or not self._private:
            self._kill()
        streams.drain()
        if stopped is None and streams.flooded:
            stopped = Ending.OUTPUT_LIMIT
        ending, code = (stopped, None) if stopped else self._ending(report, limits, streams.errors)
        return Completed(ending, code, streams.output, streams.errors, wall_s)

    def _ending(
        self, report: tuple[int, float] | None, limits: Limits, stderr: bytes
    ) -> tuple[Ending, int]:
        out_of_memory = self._group is not None and self._group.out_of_memory()
        if report is None and self._private and self._process.returncode < 0 and not out_of_memory:
            raise RuntimeFailure(
                f"a sandbox was ended from outside by signal {-self._process.returncode}"
            )
        # Without a report the supervisor was ended too, which only a lack of memory or an attack on
        # it can do.
        code, cpu_s = report or (-signal.SIGKILL, 0.0)
        last_line = stderr.rstrip().rpartition(b"\n")[2]
        if (code == -signal.SIGKILL and out_of_memory) or (
            code == 1 and last_line == b"MemoryError"
        ):
            return Ending.MEMORY, code
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu_s >= limits.cpu_s):
            return Ending.CPU_LIMIT, code
        return (Ending.SIGNALLED if code < 0 else Ending.EXITED), code

    def _over(self) -> bool:
        return readable(self._exit_fd, 0)

    def _complaint(self) -> str:
        self._kill()
        text = os.read(self._stderr.fileno(), _CHUNK).decode(errors="replace").strip()
        return (
            text.splitlines()[-1]
            if text
            else f"it ended with status {self._process.returncode} and no message"
        )

    def _meet_init(self) -> None:
        """Know the first process of the namespace: bubblewrap names it before the interpreter
        starts. The number is valid as long as its owner, bubblewrap, has not ended; nothing is
        known afterwards where it has.
        """
        said = b""
        while b"\n" not in said:  # written piece by piece
            part = os.read(self._status_fd, _CHUNK) if readable(self._status_fd, START_S) else b""
            if not part:
                return
            said += part
        if not self._over():
            self._init = json.loads(said.splitlines()[0])["child-pid"]
            self._init_fd = os.pidfd_open(self._init)

    def _kill(self) -> None:
        """End every process, and wait until they are gone. Raises RuntimeFailure when the kernel
        cannot.
        """
        # An orphan would wait for the host's first process, which in a container may never ask
        # after it.
        if self._private and self._init_fd < 0:
            self._meet_init()
        if self._init_fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
            if not readable(self._init_fd, END_S):
                raise RuntimeFailure(f"a sandbox could not be ended within {END_S:.0f} s")
            # bubblewrap ends by itself then. Killed before, it would leave its child for others to
            # wait for.
            readable(self._exit_fd, END_S)
        if self._process.returncode is None:  # once it is waited for, its number may be another's
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(END_S)

    def discard(self) -> None:
        """End whatever is left and give everything back."""
        self._kill()
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()
        os.close(self._exit_fd)
        self._give_back()

    def _give_back(self) -> None:
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
