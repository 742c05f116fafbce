"""The perturbation operators (docs/method.md, section 1): small pure classes. Invariant: equal
arguments give equal results.

A `ToolFault` replaces the call: the action is not executed. A `TextOperator` rewrites the
observation of an executed call. Neither touches rewards, termination or hidden state. A new
operator is a class and an entry in `FAULTS` or `TEXT_OPERATORS`.
"""

import random
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from envs.perturbation.lexicon import Lexicon

Family = Literal["tool_flakiness", "partial_observability", "prompt_injection", "distractors"]


@dataclass(frozen=True)
class Scene:
    """The input of an operator: the clean observations of this step and of the step before, and
    the environment's lexicon.
    """

    clean: str
    previous: str
    lexicon: Lexicon


class Operator(ABC):
    """One kind of perturbation. `rate` is its default probability a step."""

    name: ClassVar[str]
    family: ClassVar[Family]
    rate: ClassVar[float]


class ToolFault(Operator):
    """The call fails: the action is not executed and the agent sees only the message."""

    family = "tool_flakiness"

    @abstractmethod
    def message(self, rng: random.Random) -> str:
        """What the agent sees."""


class TextOperator(Operator):
    """The call works; the agent sees a changed observation."""

    @abstractmethod
    def apply(self, text: str, scene: Scene, rng: random.Random) -> str | None:
        """The changed text, or None where the operator has nothing to act on."""


class Failure(ToolFault):
    name = "failure"
    rate = 0.10

    def message(self, rng: random.Random) -> str:
        failure = "Error: the command failed and was not executed."
        disconnection = "Error: connection lost, nothing was done."
        return rng.choice((failure, disconnection))


class Timeout(ToolFault):
    name = "timeout"
    rate = 0.05

    def message(self, rng: random.Random) -> str:
        return "Error: timed out, the command was not executed."


class StaleResult(TextOperator):
    name = "stale"
    family = "tool_flakiness"
    rate = 0.10

    def apply(self, text: str, scene: Scene, rng: random.Random) -> str | None:
        is_stale = scene.previous not in ("", scene.clean)
        return scene.previous if is_stale else None


class ShuffledLines(TextOperator):
    name = "shuffled"
    family = "tool_flakiness"
    rate = 0.20

    def apply(self, text: str, scene: Scene, rng: random.Random) -> str | None:
        lines = text.splitlines()
        if len(set(lines)) < 2:
            return None
        rng.shuffle(lines)
        return "\n".join(lines)


class PartialResponse(TextOperator):
    """Drops 10-50 % of the response at its end."""

    name = "partial"
    family = "tool_flakiness"
    rate = 0.10

    def apply(self, text: str, scene: Scene, rng: random.Random) -> str | None:
        words = _words(text)
        drop_count = round(len(words) * rng.uniform(0.1, 0.5))
        if not drop_count:
            return None
        remaining = words[: len(words) - drop_count]
        return "".join(remaining).rstrip()


class Truncation(TextOperator):
    """Keeps the first 40-80 % and marks the cut."""

    name = "truncation"
    family = "partial_observability"
    rate = 0.20

    def apply(self, text: str, scene: Scene, rng: random.Random) -> str | None:
        words = _words(text)
        count = round(len(words) * rng.uniform(0.4, 0.8))
        if count >= len(words):
            return None
        return "".join(words[:count]).rstrip() + " [truncated]"


class LineDrop(TextOperator):
    name = "line_drop"
    family = "partial_observability"
    rate = 0.15

    def apply(self, text: str, scene: Scene, rng: random.Random) -> str | None:
        lines = text.splitlines()
        if len(lines) < 2:
            return None
        lines.pop(rng.randrange(len(lines)))
        return "\n".join(lines)


class StackTraceCut(TextOperator):
    """Keeps only the first line of a stack trace, so that the error itself is lost."""

    name = "stack_trace_cut"
    family = "partial_observability"
    rate = 0.15

    def apply(self, text: str, scene: Scene, rng: random.Random) -> str | None:
        head, marker, _ = text.partition("Traceback (most recent call last):")
        return f"{head}{marker} ..." if marker else None


class Masking(TextOperator):
    """Replaces 10-30 % of the words."""

    name = "masking"
    family = "partial_observability"
    rate = 0.05

    def apply(self, text: str, scene: Scene, rng: random.Random) -> str | None:
        share = rng.uniform(0.1, 0.3)

        def mask(word: re.Match[str]) -> str:
            return "[MASK]" if rng.random() < share else word.group()

        masked = re.sub(r"\S+", mask, text)
        return masked if masked != text else None


class _Said(TextOperator):
    """A sentence of the lexicon, added as a line at a random place."""

    lines: ClassVar[Literal["errors", "instructions", "fixes", "distractors", "decoys"]]

    def apply(self, text: str, scene: Scene, rng: random.Random) -> str | None:
        lines = text.splitlines()
        place = rng.randint(0, len(lines))
        sentences = getattr(scene.lexicon, self.lines)
        lines.insert(place, scene.lexicon.say(sentences, rng))
        return "\n".join(lines)


class MisleadingError(_Said):
    name = "misleading_error"
    family = "prompt_injection"
    rate = 0.15
    lines = "errors"


class MisleadingInstruction(_Said):
    name = "misleading_instruction"
    family = "prompt_injection"
    rate = 0.10
    lines = "instructions"


class WrongFix(_Said):
    name = "wrong_fix"
    family = "distractors"
    rate = 0.15
    lines = "fixes"


class SemanticDistractor(_Said):
    name = "semantic_distractor"
    family = "distractors"
    rate = 0.15
    lines = "distractors"


class DecoyError(_Said):
    name = "decoy_error"
    family = "distractors"
    rate = 0.10
    lines = "decoys"


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


FAULTS: tuple[ToolFault, ...] = (Failure(), Timeout())
"""In the order in which they are tried; the first that fires wins."""

TEXT_OPERATORS: tuple[TextOperator, ...] = (
    StaleResult(),
    ShuffledLines(),
    PartialResponse(),
    Truncation(),
    LineDrop(),
    StackTraceCut(),
    Masking(),
    MisleadingError(),
    MisleadingInstruction(),
    WrongFix(),
    SemanticDistractor(),
    DecoyError(),
)
"""In the order in which they act on the text."""

OPERATORS: dict[str, Operator] = {
    operator.name: operator for operator in (*FAULTS, *TEXT_OPERATORS)
}
