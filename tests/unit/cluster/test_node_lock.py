"""One process of a node at a time."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from cluster.node_lock import node_lock


def test_the_lock_is_held_inside_and_free_after_though_a_forked_process_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reader, writer = os.pipe()
    with node_lock("x"):
        [path] = tmp_path.iterdir()
        with path.open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (child := os.fork()):
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(writer)
    os.waitpid(child, 0)
    with node_lock("y", needed=False):
        assert [one.name for one in tmp_path.iterdir()] == [path.name]
