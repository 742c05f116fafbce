"""What runs in a container, and how its output is read, without an engine."""

import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from envs.terminal_bench.docker.programs import FIRST, STAMPS, follow, stamps_of
from envs.terminal_bench.machine import MachineGone
from envs.terminal_bench.sandbox.shell import Output
from tests.sandboxes import require_bubblewrap

_UNDER_FIRE = """
for n in 1 2 3; do (sleep 0 &); done
kill -9 -1
for name in KILL STOP TERM INT HUP QUIT USR1; do kill -$name 1; done
sleep 0.3
grep -l '^State:.Z' /proc/[0-9]*/status | wc -l
cat /proc/1/comm
"""


def test_the_first_process_of_a_container_cannot_be_ended_and_collects_the_dead() -> None:
    require_bubblewrap()
    system = ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
    for name in ("bin", "lib", "lib64"):
        system += ["--symlink", f"usr/{name}", f"/{name}"]
    start = 'bash -c "$1" & exec bash -c "$2"'
    argv = ["bwrap", "--unshare-all", "--as-pid-1", "--die-with-parent", *system, "--"]
    argv += ["/bin/bash", "-c", start, "start", _UNDER_FIRE, FIRST]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == "0\n"
        assert container.stdout.readline() == "bash\n"
        container.kill()


def frame(content: bytes) -> bytes:
    return b"\x01\x00\x00\x00" + len(content).to_bytes(4, "big") + content


def test_output_comes_in_frames_that_a_stream_may_cut_anywhere() -> None:
    ours, theirs = socket.socketpair()
    sent = frame(b"one\n") + frame(b"") + frame(b"two" * 40_000)

    def send() -> None:
        for place in range(0, len(sent), 4_999):
            theirs.sendall(sent[place : place + 4_999])
        theirs.close()

    threading.Thread(target=send).start()
    output = Output(1 << 20)
    assert follow(ours, output, 20.0)
    assert output.kept() == b"one\n" + b"two" * 40_000
    ours.close()


def test_a_program_that_does_not_end_is_waited_for_until_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(frame(b"begun"))
    started = time.monotonic()
    output = Output(100)
    assert not follow(ours, output, 0.2)
    assert time.monotonic() - started < 10
    assert output.kept() == b"begun"
    ours.close()
    theirs.close()


def test_stamps_are_those_of_the_files_and_nothing_else(tmp_path: Path) -> None:
    name = "two words\nand\xa0a line"
    (tmp_path / name).write_text("x")
    listed = subprocess.run(
        ["/bin/bash", "-c", STAMPS, "stamps", str(tmp_path)], capture_output=True, check=True
    ).stdout
    found = stamps_of(listed)
    info = (tmp_path / name).lstat()
    assert set(found) == {str(tmp_path), str(tmp_path / name)}
    assert found[str(tmp_path / name)] == (info.st_ino, info.st_ctime_ns)


@pytest.mark.parametrize("listed", [b"1 2.5\0", b"hello\0", b"x 1.5 /a\0", b"1 1e5 /a\0"])
def test_a_find_that_says_anything_else_has_been_replaced(listed: bytes) -> None:
    with pytest.raises(MachineGone, match="its find says"):
        stamps_of(listed)
