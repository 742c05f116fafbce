"""What an agent's answer means: which action, and which program. Read generously, as models write:
in fences, with prose around.

Whatever the text is, it is only looked at, line by line; nothing here parses a program.
"""

import re
from dataclasses import dataclass

_START = re.compile(r"\s*(write|test|run|submit)\b[ \t]*:?(.*)", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(r"[\s*_#>`]*(write|test|run|submit)[\s*_:.`]*", re.IGNORECASE)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)\s*")
_QUOTES = ('"""', "'''")
_MARKDOWN = ("markdown", "md")
_NO_PROGRAM = {
    "bash",
    "console",
    "diff",
    "json",
    "markdown",
    "md",
    "output",
    "plaintext",
    "sh",
    "shell",
    "text",
    "txt",
    "yaml",
}
"""Languages of fences that are passed over where another fence follows."""


def clean(text: str) -> str:
    """The text with Python's line ends and nothing that no file can hold: half a surrogate pair,
    which an answer that was cut has, becomes U+FFFD.
    """
    valid_text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return valid_text.replace("\r\n", "\n")


def parse_action(action: str) -> tuple[str, str]:
    """(verb, program). For an unknown verb the verb is the first word as it was said, and there is
    no program.

    The verb is the first word, or alone on a line, or stands first in a fence; a fenced program
    without any verb is written. The program is what follows, or the first fenced part of it.
    """
    if match := _START.match(action):
        return match[1].lower(), _Lines(match[2].split("\n")).program()
    return _Lines(action.split("\n")).action() or ((action.split() or [""])[0][:40], "")


def word_alone(action: str) -> str:
    """The verb that makes up the whole first line of an answer; empty where it is no verb."""
    match = _ALONE.fullmatch(action.strip().split("\n", 1)[0])
    return match[1].lower() if match else ""


@dataclass(frozen=True)
class Fenced:
    """A fenced part of an answer. `closed` is False where the answer ends before the fence does."""

    language: str
    text: str
    closed: bool


def fenced(text: str) -> list[Fenced]:
    """The fenced parts of an answer that hold anything, in order. What stands in a fence of
    Markdown is read as Markdown.
    """
    return _Lines(text.split("\n")).fenced()


def programs(text: str) -> list[str]:
    """The texts of an answer that may be its program, in order: the fenced ones, or else all."""
    parts = fenced(text)
    candidates = [part.text for part in parts if part.language not in _NO_PROGRAM]
    return candidates or [part.text for part in parts] or [text]


class _Lines:
    """A text by its lines. What a fence is, is found out once a line."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._fences = [_FENCE.fullmatch(line) for line in lines]
        self._quotes = [(0, 0)]
        for line in lines:
            double, single = self._quotes[-1]
            self._quotes.append((double + line.count(_QUOTES[0]), single + line.count(_QUOTES[1])))

    def action(self) -> tuple[str, str] | None:
        """The action of a text that does not begin with its verb, if there is one."""
        number = 0
        while number < len(self._lines):
            if match := _ALONE.fullmatch(self._lines[number]):
                return match[1].lower(), _Lines(self._lines[number + 1 :]).program()
            if not self._opens(number):
                number += 1
                continue
            end = self._closing(number)
            inside = self._lines[number + 1 : end]
            if any(line.strip() for line in inside) and not self._passed_over(number):
                return self._fenced(inside, self._lines[end + 1 :])
            number = end + 1
        return None

    def fenced(self) -> list[Fenced]:
        parts = []
        number = 0
        while number < len(self._lines):
            match = self._fences[number]
            if match is None or not self._opens(number):
                number += 1
                continue
            end = self._closing(number)
            inside = self._lines[number + 1 : end]
            language = match[2].lower()
            if language in _MARKDOWN and any(map(_FENCE.fullmatch, inside)):
                number += 1
                continue
            if any(line.strip() for line in inside):
                parts.append(Fenced(language, "\n".join(inside), end < len(self._lines)))
            number = end + 1
        return parts

    def program(self) -> str:
        """The first fenced program, else all without the line end after the verb."""
        start = self._next(0)
        opening = start
        while opening < len(self._lines) and self._passed_over(opening):
            opening = self._next(self._closing(opening) + 1)
        inside = (
            self._lines[opening + 1 : self._closing(opening)] if opening < len(self._lines) else []
        )
        if any(line.strip() for line in inside):
            return "\n".join(inside)
        # A fence that holds nothing is the end of one that began before the verb.
        return "\n".join(self._lines[:start]).removeprefix("\n")

    @staticmethod
    def _fenced(inside: list[str], behind: list[str]) -> tuple[str, str]:
        """The action in a fence. A verb may stand alone in it, before the fence with
        its program.
        """
        first = next(number for number, line in enumerate(inside) if line.strip())
        match = _ALONE.fullmatch(inside[first])
        if match is None:
            return "write", "\n".join(inside)
        program = _Lines(inside[first + 1 :]).program()
        return match[1].lower(), program or _Lines(behind).program()

    def _next(self, start: int) -> int:
        """The first line from `start` on that opens a fence; the number of lines where
        none does.
        """
        numbers = range(start, len(self._lines))
        return next((number for number in numbers if self._opens(number)), len(self._lines))

    def _opens(self, number: int) -> bool:
        return self._fences[number] is not None and not self._in_string(0, number)

    def _passed_over(self, opening: int) -> bool:
        """Whether the fence says that it holds no program, and another one follows."""
        match = self._fences[opening]
        if match is None or match[2].lower() not in _NO_PROGRAM:
            return False
        return self._next(self._closing(opening) + 1) < len(self._lines)

    def _closing(self, opening: int) -> int:
        """The line that closes a fence; the number of lines where none does. A fence in a docstring
        closes nothing."""
        fence = self._fences[opening]
        first_end = None
        for number in range(opening + 1, len(self._lines)):
            end_fence = self._fences[number]
            if fence and end_fence and not end_fence[2] and end_fence[1].startswith(fence[1]):
                first_end = first_end or number
                if not self._in_string(opening + 1, number):
                    return number
        return first_end or len(self._lines)

    def _in_string(self, start: int, end: int) -> bool:
        """Whether a string of three quotes begins and does not end in these lines."""
        start_counts = self._quotes[start]
        end_counts = self._quotes[end]
        return any(
            (end_count - start_count) % 2
            for start_count, end_count in zip(start_counts, end_counts, strict=True)
        )
