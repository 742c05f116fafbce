"""Runs one program: `python -S keeper.py FOLDER COMMAND ...`, with a pipe of its owner as standard
input. It says the program's exit code on standard output, in a line, when there is one.

Invariant: when the pipe ends, because the owner is done or because it is gone, so do all processes
that the program started, those in sessions of their own too, and then the folder. It starts in a
moment: what it imports is light.
"""

import ctypes
import os
import select
import signal
import sys

_SUBREAPER = 36
"""prctl's: orphans below this process become its children."""


def main(folder: str, command: list[str]) -> None:
    """Return when the program, and all that it started, is over."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        program = _start(command, output)
    except OSError as error:
        os.write(output, f"it cannot be started: {error}\n".encode())
        _say(127)
    else:
        ended = os.pidfd_open(program)
        if ended in select.select([0, ended], [], [])[0]:
            _say(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]))
    os.read(0, 1)
    _end_all()
    os.chdir("/")
    _remove(folder)


def _start(command: list[str], output: int) -> int:
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    return os.posix_spawnp(command[0], command, os.environ, file_actions=streams, setsid=True)


def _say(code: int) -> None:
    try:
        os.write(1, f"{code}\n".encode())
    except BrokenPipeError:  # the owner is gone
        return


def _end_all() -> None:
    while children := _children():
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


def _remove(folder: str) -> None:
    os.chmod(folder, 0o700)  # a program may have taken its own rights away
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path)
            else:
                os.unlink(entry.path)
    os.rmdir(folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
