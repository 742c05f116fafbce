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
    next_step = task.oracle[done] if done < len(task.oracle) else "submit"
    mistakes = {
        "step": _wrong_step(task, done, next_step),
        "path": _wrong_path(next_step, rng),
        "option": _wrong_option(next_step, rng),
        "repeat": last if last and last != next_step else None,
        "early": "submit" if next_step != "submit" else "ls",
    }
    possible = {
        kind: text for kind, text in mistakes.items() if text is not None and text != next_step
    }
    kinds = list(possible)
    kind = rng.choices(kinds, [_SHARES[name] for name in kinds])[0]
    return possible[kind]


def _wrong_step(task: TerminalTask, position: int, next_step: str) -> str | None:
    """The step of the wrong solution that resembles this one."""
    wrong_steps = [step for step in task.wrong if step not in task.oracle]
    if not wrong_steps or next_step == "submit":
        return None
    return wrong_steps[min(position * len(wrong_steps) // len(task.oracle), len(wrong_steps) - 1)]


def _wrong_path(command: str, rng: random.Random) -> str | None:
    """One path of the command with another last part."""
    matches = list(_PATH.finditer(command))
    if not matches:
        return None
    place = rng.choice(matches)
    head, _, tail = place.group().rpartition("/")
    near = rng.choice((f"{tail}s", f"old-{tail}", tail[:-1] or "x", f"{tail}.new"))
    return f"{command[: place.start()]}{head}/{near}{command[place.end() :]}"


def _wrong_option(command: str, rng: random.Random) -> str | None:
    """One option of the command with another letter."""
    matches = list(_OPTION.finditer(command))
    if not matches:
        return None
    place = rng.choice(matches)
    letter = rng.choice([candidate for candidate in _LETTERS if candidate != place[1]])
    return f"{command[: place.start()]}-{letter}{command[place.end() :]}"
