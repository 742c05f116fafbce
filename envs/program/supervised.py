"""A program, and the supervisor that ends it with all that it started when it is given up or this
process is gone.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_END_S = 30.0
"""Within which everything that a program started has ended."""
_TAIL = 300
"""Letters of a program's output that are shown where it fails."""


class SupervisedProgram:
    """Starts the command in `folder`. `base` is deleted after it."""

    def __init__(
        self, command: Sequence[str], base: str, folder: str, environment: Mapping[str, str]
    ) -> None:
        self._base = base
        self._said: list[int] = []
        """The program's process id and exit code, as far as its supervisor has told."""
        # Held open, because a program may put something else in the place of the file.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._output = os.open(os.path.join(base, "output.txt"), flags, 0o600)
        self._supervisor = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(_SUPERVISOR),
                base,
                folder,
                str(self._output),
                *command,
            ],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._output],
            start_new_session=True,
        )

    def ended(self, within_s: float = 0.0) -> bool:
        """Whether the program has ended, or ends in time. Raises RuntimeError where its supervisor
        has, which nobody may end but this object.
        """
        assert self._supervisor.stdout is not None
        until = time.monotonic() + within_s
        while len(self._said) < 2:
            # The supervisor speaks twice; both times count towards the same limit.
            remaining_s = max(0.0, until - time.monotonic())
            if not select.select([self._supervisor.stdout], [], [], remaining_s)[0]:
                break
            data = os.read(self._supervisor.stdout.fileno(), 64)
            if not data:
                raise RuntimeError(f"the program ended its supervisor: {self.last_words()}")
            self._said += [int(number) for number in data.split()]
        return len(self._said) == 2

    @property
    def exit_code(self) -> int:
        """Of the program, once it has `ended`; negative for the signal that ended it."""
        return self._said[1]

    def last_words(self) -> str:
        """The end of what the program printed."""
        size = os.fstat(self._output).st_size
        tail = os.pread(self._output, 4 * _TAIL, max(0, size - 4 * _TAIL))
        return " ".join(tail.decode(errors="replace").split())[-_TAIL:] or "it said nothing"

    def close(self) -> None:
        """End the program and all that it started, and drop its folder."""
        try:
            self._supervisor.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        os.close(self._output)
        if self._supervisor.returncode:  # what it could not end or remove
            for program in self._said[:1]:
                with suppress(ProcessLookupError):
                    os.killpg(program, signal.SIGKILL)
            shutil.rmtree(self._base, ignore_errors=True)
