"""What a simulated agent does wrong in a terminal: a wrong option, a wrong path, a step of a
solution that is known to fail, the last command again, and stopping early.

Each is made from the command that would be right. The choice depends on the seed alone.
"""

import random
import re

from envs.terminal_bench.task import TerminalTask
from r2v_dist.seeding import rng_for

_PATH = re.compile(r"(?<![\w.])/(?:app|tmp)(?:/[\w.-]+)+")
_OPTION = re.compile(r"(?<=\s)-([a-zA-Z])(?=[\s'\"\d])")
_LETTERS = "acdefhiklmnqrstuvxz"
_SHARES = {"step": 4, "path": 3, "option": 3, "repeat": 2, "early": 2}
"""How often each is chosen, where it can be made."""


def mistake(task: TerminalTask, done: int, last: str, seed: int) -> str:
    """A wrong action where `done` commands of the oracle are carried out and `last` came last."""
    rng = rng_for("terminal-mistake", seed)
    right = task.oracle[done] if done < len(task.oracle) else "submit"
    made = {
        "step": _wrong_step(task, done, right),
        "path": _wrong_path(right, rng),
        "option": _wrong_option(right, rng),
        "repeat": last if last and last != right else None,
        "early": "submit" if right != "submit" else "ls",
    }
    possible = {kind: text for kind, text in made.items() if text is not None and text != right}
    kinds = list(possible)
    kind = rng.choices(kinds, [_SHARES[one] for one in kinds])[0]
    return possible[kind]


def _wrong_step(task: TerminalTask, done: int, right: str) -> str | None:
    """The step of the wrong solution that resembles this one."""
    others = [step for step in task.wrong if step not in task.oracle]
    if not others or right == "submit":
        return None
    return others[min(done * len(others) // len(task.oracle), len(others) - 1)]


def _wrong_path(command: str, rng: random.Random) -> str | None:
    """One path of the command with another last part."""
    found = list(_PATH.finditer(command))
    if not found:
        return None
    place = rng.choice(found)
    head, _, tail = place.group().rpartition("/")
    near = rng.choice((f"{tail}s", f"old-{tail}", tail[:-1] or "x", f"{tail}.new"))
    return f"{command[: place.start()]}{head}/{near}{command[place.end() :]}"


def _wrong_option(command: str, rng: random.Random) -> str | None:
    """One option of the command with another letter."""
    found = list(_OPTION.finditer(command))
    if not found:
        return None
    place = rng.choice(found)
    letter = rng.choice([one for one in _LETTERS if one != place[1]])
    return f"{command[: place.start()]}-{letter}{command[place.end() :]}"
