"""Runs one program: `python -S keeper.py FOLDER COMMAND ...`, with a pipe of its owner as standard
input. It says the program's exit code on standard output, in a line, when there is one.

Invariant: when the pipe ends, because the owner is done or because it is gone, so do all processes
that the program started, those in sessions of their own too, and then the folder.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys

_SUBREAPER = 36
"""prctl's: orphans below this process become its children."""


def main(folder: str, command: list[str]) -> None:
    """Return when the program, and all that it started, is over."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    with open(os.path.join(folder, "output.txt"), "wb") as output:
        try:
            program = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            output.write(f"it cannot be started: {error}\n".encode())
            output.flush()
            _say(127)
        else:
            ended = os.pidfd_open(program.pid)
            if ended in select.select([0, ended], [], [])[0]:
                _say(program.wait())
    os.read(0, 1)
    _end_all()
    shutil.rmtree(folder, ignore_errors=True)


def _say(code: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the owner is gone
        os.write(1, f"{code}\n".encode())


def _end_all() -> None:
    while children := _children():
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
