"""The moor of the examples with walks that end their process, hang or raise, and with nodes on
which none can begin.
"""

import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path

from envs.spec import EnvSpec, TaskRequest
from examples.own_environment import Moor
from r2v_dist.episodes import Task
from r2v_dist.errors import UsageError

BROKEN_NODE = "R2V_BROKEN_NODE"
"""Set in the environment of a node on which no walk can end: `games`, `sandbox` or `disk`, what it
lacks, a colon, and a file that gets a line for every walk that fails for it.
"""
_GAMES = "there are no walks on this node"
_SANDBOX = "sandbox.allow_weaker = false: isolation here is only 'rlimits'; install bubblewrap"


class PoisonedMoor(Moor):
    """`poison`: "kill" (in a step), "hang" or "raise" (in a reset), else nothing."""

    def __init__(self, number: int, max_steps: int, poison: str = "", expert: bool = False) -> None:
        super().__init__(number, max_steps, expert)
        self.poison = poison

    def reset(self, **options: object) -> tuple[str, dict[str, str]]:
        if _lacks("games"):
            raise FileNotFoundError(_GAMES)
        if _lacks("sandbox"):
            raise UsageError(_SANDBOX)
        if self.poison == "hang":
            time.sleep(600)
        if self.poison == "raise":
            raise ValueError("a walk without a trail")
        return super().reset(**options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, str]]:
        if self.poison == "kill":
            os.kill(os.getpid(), 9)
        if _lacks("disk"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/walk")
        return super().step(action)


def _lacks(what: str) -> bool:
    """Whether this node does; a walk that is to fail for it is counted."""
    lacking, _, count = os.environ.get(BROKEN_NODE, "").partition(":")
    if lacking != what:
        return False
    with Path(count).open("a", encoding="utf-8") as lines:
        lines.write(f"{os.getpid()}\n")
    return True


def walks(count: int, poisons: Sequence[str] = ()) -> list[Task]:
    """Walks, of which the ones in the middle are poisoned and named so."""
    tasks = []
    for number in range(count):
        place = number - count // 2
        poison = poisons[place] if 0 <= place < len(poisons) else ""
        arguments = (("number", number), ("max_steps", 12), ("poison", poison))
        name = f"{poison or 'walk'}-{number}"
        tasks.append(Task(name, "test", "chaos/PoisonedMoor-v0", arguments))
    return tasks


def make_tasks(request: TaskRequest) -> list[Task]:
    """For the specification's sake; whoever uses them makes their own."""
    return walks(request.config.size("test"))


SPEC = EnvSpec("chaos/PoisonedMoor-v0", PoisonedMoor, make_tasks)
