"""A verifier by the examples of the task: what fails them is doubted. It reads the conversation and
nothing else, as the deployed agent could.
"""

import ast
import asyncio
from collections.abc import Sequence
from functools import lru_cache

from envs.coding.actions import clean, word_alone
from envs.coding.code_sandbox import Attempt, attempt
from envs.coding.statement import Statement, read_goal, stated
from envs.coding.visible_tests import VisibleTest, visible_tests
from r2v_dist.chat import Turn
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.language_model import Candidate
from r2v_dist.messages import Heard, text_of

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
        self, history: Sequence[Turn], user: Heard, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        """V of every candidate."""
        opening = text_of(history[0].user if history else user)
        words = ("test", "run", "submit")
        earlier = [turn.action for turn in history if word_alone(turn.action) not in words]
        return tuple(
            await asyncio.gather(
                *(
                    asyncio.to_thread(self._score, candidate.text, earlier, opening)
                    for candidate in candidates
                )
            )
        )

    def _score(self, answer: str, earlier: Sequence[str], opening: str) -> float:
        word = word_alone(answer)
        if word in ("test", "run"):
            return TOOL
        if word == "submit":
            return self._value(earlier[-1], opening) if earlier else NO_PROGRAM
        return self._value(answer, opening)

    def _value(self, answer: str, opening: str) -> float:
        beginning, entry_point, tests = examples(opening)
        return value(attempt(self._settings, clean(answer), beginning, entry_point, tests))


def value(outcome: Attempt) -> float:
    """V of an attempt."""
    if not outcome.program:
        return NO_PROGRAM
    if not outcome.loads:
        return BROKEN
    if not outcome.tests:
        return UNTRIED
    return FAILING + (PASSING - FAILING) * outcome.passed / outcome.tests


def statement_of(opening: str) -> Statement:
    """The problem in the first message of a conversation, in either protocol."""
    if (statement := read_goal(opening)) is not None:
        return statement
    lines = opening.removeprefix("Goal: ").split("\n")
    for end in range(len(lines), 0, -1):
        if _parses(prompt := "\n".join(lines[:end])):
            return stated(prompt)
    return Statement(opening, "")


@lru_cache(maxsize=1024)
def examples(opening: str) -> tuple[str, str, tuple[VisibleTest, ...]]:
    """What a solution is tried with: the code that is given, the function, the examples."""
    problem = statement_of(opening)
    tests = visible_tests(problem.words, problem.entry_point)
    return problem.beginning, problem.entry_point, tests


def _parses(text: str) -> bool:
    """A prompt is the benchmark's own text, not a model's."""
    try:
        return bool(ast.parse(text).body)
    except SyntaxError:
        return False
