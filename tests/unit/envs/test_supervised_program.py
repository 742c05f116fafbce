"""A supervised program: how long its owner waits for it."""

import os
import select
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from envs.program import supervised
from envs.program.supervised import SupervisedProgram


class Clock:
    """A clock that goes on where something is waited for, and only there."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def select(self, read: list[Any], _write: object, _error: object, limit_s: float) -> Any:
        """What comes first takes 4 s; nothing comes after it."""
        self.waits.append(limit_s)
        if len(self.waits) > 1:
            self.now += limit_s
            return [], [], []
        self.now += 4.0
        return select.select(read, [], [], 60.0)


def test_a_program_that_starts_late_is_waited_for_no_longer_than_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    folder = base / "work"
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    program = SupervisedProgram(command, str(base), str(folder), os.environ)
    clock = Clock()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(supervised, "select", SimpleNamespace(select=clock.select))
            patched.setattr(supervised, "time", SimpleNamespace(monotonic=clock.monotonic))
            assert not program.ended(5.0)
    finally:
        program.close()
    assert clock.waits == [5.0, 1.0]
    assert clock.now == 105.0
