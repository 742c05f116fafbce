"""Environments that wait for their next episode, so that a unit need not build one."""

import contextlib
from collections import deque
from collections.abc import Iterator

import gymnasium

from envs.make import make
from r2v_dist.episodes import Task


class IdleEnvs:
    """Environments that nobody plays at the moment: starting a game costs as much as two steps, and
    its next unit comes soon.
    """

    def __init__(self, kept: int = 32) -> None:
        self._kept = kept
        self._idle: deque[tuple[tuple[Task, bool], gymnasium.Env[str, str]]] = deque()

    @contextlib.contextmanager
    def borrow(self, task: Task, expert: bool) -> Iterator[gymnasium.Env[str, str]]:
        """An environment of this task, to be reset before use. One that raised is not
        used again.
        """
        key = (task, expert)
        match = next((item for item in self._idle if item[0] == key), None)
        if match is not None:
            self._idle.remove(match)
            env = match[1]
        else:
            env = make(task, expert)
        try:
            yield env
        except BaseException:
            env.close()
            raise
        self._idle.append((key, env))
        if len(self._idle) > self._kept:
            self._idle.popleft()[1].close()
