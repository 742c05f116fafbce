"""bubblewrap, started, with every process that it contains. Invariant: all of them are in the
control group from their first instruction on, and when `end` returns none is left.

The kernel ends every process of a PID namespace with its first process, so that one is killed:
through a descriptor, which unlike a number never comes to mean another process.
"""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from envs.sandbox.cgroups import Group
from envs.sandbox.privileges import nobody
from envs.sandbox.streams import readable
from r2v_dist.errors import RuntimeFailure

START_S = 60.0
"""Deadline for a sandbox to be ready; a busy machine takes a few seconds."""
END_S = 300.0
"""A killed process ends at once on an idle machine, and after minutes on a starved one."""
_CHUNK = 1 << 16


class Namespace:
    """Starts at once. Must be made in the thread of a `start_thread` that outlives it: the sandbox
    ends with the thread that started it.

    Args:
        options: what bubblewrap shows and forbids. program: what it runs. code: the system-call
        filter, if there is one. inherited: descriptors of the program. piped: whether the program's
        input and output are pipes to this process, as its errors always are.

    Raises:
        OSError: it cannot be started, or not in the control group.
    """

    def __init__(
        self,
        options: Sequence[str],
        program: Sequence[str],
        code: bytes | None,
        group: Group | None,
        inherited: Sequence[int],
        piped: bool = False,
    ) -> None:
        self.first = -1
        """Number of the first process; -1 until `find_first` has found it."""
        self._first_fd = -1
        self._status_fd, status_end = os.pipe()
        options_fd, options_end = os.pipe()
        passed_fds = [status_end, options_fd]
        all_options = [*options, "--json-status-fd", str(status_end)]
        if code is not None:
            passed_fds.append(_written(code))
            all_options += ["--seccomp", str(passed_fds[-1])]
        command = ["bwrap", "--args", str(options_fd), "--", *program]
        try:
            with nobody():
                self.process = _start(command, [*passed_fds, *inherited], piped)
            try:
                # bubblewrap waits for its options, so every process that it starts is in the group.
                if group:
                    group.admit(self.process.pid)
                os.write(options_end, b"".join(option.encode() + b"\0" for option in all_options))
                self._exit_fd = os.pidfd_open(self.process.pid)
            except OSError:
                self.process.kill()
                self.process.wait()
                raise
        except OSError:
            os.close(self._status_fd)
            raise
        finally:
            for fd in (*passed_fds, options_end):
                os.close(fd)

    def find_first(self) -> None:
        """Open the first process, whose number bubblewrap writes before the program starts. The
        number is valid only while its parent, bubblewrap, has not ended.
        """
        status = b""
        while self._first_fd < 0 and b"\n" not in status:  # written piece by piece
            part = os.read(self._status_fd, _CHUNK) if readable(self._status_fd, START_S) else b""
            if not part:
                return
            status += part
        if self._first_fd < 0 and not readable(self._exit_fd, 0):
            self.first = json.loads(status.splitlines()[0])["child-pid"]
            with suppress(ProcessLookupError):
                self._first_fd = os.pidfd_open(self.first)

    def end(self) -> None:
        """End every process, and wait until they are gone. Raises RuntimeFailure when the kernel
        does not end them.
        """
        # An orphan would stay until the host's first process waits for it, which in a container may
        # never happen.
        self.find_first()
        if self._first_fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)
            if not readable(self._first_fd, END_S):
                raise RuntimeFailure(f"a sandbox could not be ended within {END_S:.0f} s")
            # bubblewrap then ends by itself. Killed earlier, it would leave its child an orphan.
            readable(self._exit_fd, END_S)
        end_group(self.process)

    def release(self) -> None:
        """Close every descriptor, once `end` has returned."""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        for fd in (self._exit_fd, self._status_fd, self._first_fd):
            if fd >= 0:
                os.close(fd)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    if process.returncode is None:  # after the wait its number may be another process's
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_S)


def last_words(process: subprocess.Popen[bytes]) -> str:
    """The last line of the errors of a process that has ended."""
    assert process.stderr is not None
    text = os.read(process.stderr.fileno(), _CHUNK).decode(errors="replace").strip()
    return text.splitlines()[-1] if text else f"it ended with status {process.returncode}"


def _written(content: bytes) -> int:
    """The reading end of a pipe that holds this."""
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return reader


def _start(command: list[str], fds: Sequence[int], piped: bool) -> subprocess.Popen[bytes]:
    talks = subprocess.PIPE if piped else subprocess.DEVNULL
    return subprocess.Popen(
        command,
        bufsize=0,  # this side reads and writes the descriptors itself
        stdin=talks,
        stdout=talks,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that Ctrl-C is this process's to handle
        pass_fds=fds,
        # bubblewrap gets an empty environment too: a program could read keys and tokens in /proc.
        env={"PATH": os.environ.get("PATH", os.defpath)},
    )
