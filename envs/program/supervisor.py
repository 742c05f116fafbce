"""Runs one program: `python -S supervisor.py BASE FOLDER OUTPUT COMMAND ...`, in a folder, with a
descriptor for what it prints, and a pipe of its owner as standard input. On standard output it says
the program's process id and, when there is one, its exit code, a line each.

Invariant: when the pipe ends, because the owner is done or because it is gone, so do all processes
that the program started, those in sessions of their own too, and then the folder BASE. It starts in
a moment: what it imports is light.
"""

import ctypes
import os
import select
import signal
import sys

_SUBREAPER = 36
"""prctl's: orphans below this process become its children."""


def main(base: str, folder: str, output: int, command: list[str]) -> None:
    """Return when the program, and all that it started, is over."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    os.chdir(folder)
    try:
        program = _start(command, output)
    except OSError as error:
        os.write(output, f"it cannot be started: {error}\n".encode())
        _say("0\n127")
    else:
        _say(str(program))
        program_fd = os.pidfd_open(program)
        if program_fd in select.select([0, program_fd], [], [])[0]:
            _say(str(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])))
    os.read(0, 1)
    _end_all()
    os.chdir("/")
    _remove(base)


def _start(command: list[str], output: int) -> int:
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
        (os.POSIX_SPAWN_CLOSE, output),
    ]
    return os.posix_spawnp(command[0], command, os.environ, file_actions=streams, setsid=True)


def _say(text: str) -> None:
    try:
        os.write(1, f"{text}\n".encode())
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


def _remove(base: str) -> None:
    """Folders are moved up before they are emptied, so that no path is too long."""
    folders = [base]
    move_count = 0
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                os.chmod(entry.path, 0o700)  # a program may have taken its own rights away
                if folder == base:
                    folders.append(entry.path)
                else:
                    move_count += 1
                    folders.append(f"{base}/{os.getpid()}-{move_count}")
                    os.rename(entry.path, folders[-1])
    for folder in reversed(folders):
        os.rmdir(folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
