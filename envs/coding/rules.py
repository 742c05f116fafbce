"""A verifier by the examples of the task: what fails them is doubted. It reads the conversation and
nothing else, as the deployed agent could.
"""

import ast
import asyncio
import re
from collections.abc import Sequence
from functools import lru_cache

from envs.coding.actions import clean, fenced, word_alone
from envs.coding.env import WANTED
from envs.coding.visible_tests import VisibleTest, visible_tests
from envs.coding.workshop import Attempt, attempt
from r2v_dist.chat import Turn
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.language_model import Candidate

NO_PROGRAM = 0.02
BROKEN = 0.05
"""Of a program that does not load."""
FAILING = 0.1
"""Of one that fails every example; with each that it passes it comes nearer to `PASSING`."""
UNTRIED = 0.6
"""Of one that loads where no example can be run."""
PASSING = 0.9
TOOL = 0.5
"""Of an answer that tries something out."""


class CodeRules:
    """V of a candidate: how its program does on the examples that the task shows; of a submission,
    how the last program did.
    """

    def __init__(self, sandbox: SandboxConfig) -> None:
        self._settings = sandbox.model_dump_json() if sandbox != SandboxConfig() else "{}"

    async def score(
        self, history: Sequence[Turn], user: str, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate."""
        prompt = prompt_of(history[0].user if history else user)
        earlier = [turn.action for turn in history if not word_alone(turn.action)]
        scores = [
            await asyncio.to_thread(self._score, candidate.text, earlier, prompt)
            for candidate in candidates
        ]
        return tuple(scores)

    def _score(self, answer: str, earlier: Sequence[str], prompt: str) -> float:
        word = word_alone(answer)
        if word in ("test", "run"):
            return TOOL
        if word == "submit":
            return self._value(earlier[-1], prompt) if earlier else NO_PROGRAM
        return self._value(answer, prompt)

    def _value(self, answer: str, prompt: str) -> float:
        entry_point, tests = _examples(prompt)
        return value(attempt(self._settings, clean(answer), prompt, entry_point, tests))


def value(tried: Attempt) -> float:
    """V of an attempt."""
    if not tried.program:
        return NO_PROGRAM
    if not tried.loads:
        return BROKEN
    if not tried.tests:
        return UNTRIED
    return FAILING + (PASSING - FAILING) * tried.passed / tried.tests


def prompt_of(opening: str) -> str:
    """The problem as the benchmark states it, from the first message of a conversation: what is
    fenced, or the lines that are Python.
    """
    goal = opening.removeprefix("Goal: ")
    if goal.startswith(WANTED) and (parts := fenced(goal)):
        return parts[0].text
    lines = goal.split("\n")
    for end in range(len(lines), 0, -1):
        if _parses(beginning := "\n".join(lines[:end])):
            return beginning
    return goal


def entry_point_of(prompt: str) -> str:
    """The function that a prompt asks for: the last that it begins, or the one its example calls."""
    begun = re.findall(r"^def (\w+)", prompt, re.MULTILINE)
    if begun:
        return str(begun[-1])
    for line in prompt.split("\n"):
        if line.startswith("assert "):
            called = re.findall(r"(\w+)\s*\(", line)
            return next((name for name in called if name not in _AROUND), "")
    return ""


_AROUND = frozenset(
    ["abs", "assert", "dict", "isclose", "len", "list", "round", "set", "sorted", "str", "tuple"]
)
"""What stands before a bracket in examples, around the call."""


@lru_cache(maxsize=1024)
def _examples(prompt: str) -> tuple[str, tuple[VisibleTest, ...]]:
    entry_point = entry_point_of(prompt)
    return entry_point, visible_tests(prompt, entry_point)


def _parses(text: str) -> bool:
    """A prompt is the benchmark's own text, not a model's."""
    try:
        return bool(ast.parse(text).body)
    except SyntaxError:
        return False
