"""A problem as an instruct model reads it: what is wanted in words, and the code that is given.

A docstring that is given as code is written again by small models, word by word: half of what they
generate. So the words stand outside of the code, and the agent's answer is the code alone.
"""

import ast
import re
from dataclasses import dataclass

from envs.coding.actions import fenced

WANTED = "Write a self-contained Python program that solves this problem:"
_GIVEN = "It begins with:"


@dataclass(frozen=True)
class Statement:
    """The words of a problem, examples included, and the code that is given: imports, helpers and
    the head of the function; empty where the words say it all.
    """

    words: str
    code: str

    @property
    def goal(self) -> str:
        """What the agent is told to do."""
        code_part = f"\n\n{_GIVEN}\n```python\n{self.code}\n```" if self.code else ""
        return f"{WANTED}\n{self.words}{code_part}"

    @property
    def beginning(self) -> str:
        """The given code as a program: the function that it begins has a body; empty without code.
        Whoever tries an answer gives this to the sandbox, so that the same attempt is made once.
        """
        return f"{self.code}\n    ..." if self.code else ""

    @property
    def entry_point(self) -> str:
        """The function that is asked for: the last that the code begins, or the one that an example
        calls.
        """
        definitions = re.findall(r"^def (\w+)", self.code, re.MULTILINE)
        if definitions:
            return str(definitions[-1])
        for line in self.words.split("\n"):
            if line.startswith("assert "):
                callees = re.findall(r"(\w+)\s*\(", line)
                return next((name for name in callees if name not in _AROUND), "")
        return ""


_AROUND = frozenset(
    ("abs", "assert", "dict", "isclose", "len", "list", "round", "set", "sorted", "str", "tuple")
)
"""What stands before a bracket in examples, around the call."""


def stated(prompt: str) -> Statement:
    """The statement of a benchmark's prompt, which is its own text and not a model's."""
    prompt = prompt.strip()
    try:
        module = ast.parse(prompt)
    except SyntaxError:
        return Statement("", prompt)
    last_node = module.body[-1] if module.body else None
    if isinstance(last_node, ast.FunctionDef) and (words := ast.get_docstring(last_node)):
        lines = prompt.split("\n")[: last_node.body[0].lineno - 1]
        return Statement(words, "\n".join(lines).rstrip())
    words = ast.get_docstring(module)
    if words and len(module.body) == 1:
        return Statement(words, "")
    return Statement("", prompt)


def read_goal(message: str) -> Statement | None:
    """The statement in the first message of a conversation; None where there is none."""
    _, marker, body = message.partition(f"{WANTED}\n")
    if not marker:
        return None
    words, separator, code = body.partition(f"\n\n{_GIVEN}\n")
    if separator and (parts := fenced(code)):
        return Statement(words, parts[0].text)
    return Statement(body, "")
