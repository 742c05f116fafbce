"""The examples that a prompt shows, as tests an agent may run: nothing here looks at a benchmark's
own tests.

Prompts show doctests, `assert` lines, or `f(x) => y` in many spellings. An example counts only when
its call has literal arguments and its result is a literal; what is told in words is left to the
reader.
"""

import ast
import doctest
import re
from dataclasses import dataclass

_SEPARATOR = re.compile(r"^\s*(?:#\s*)?(?:==>|=>|->|➞|==|=|(?:should\s+)?returns?\b)\s*")
_WORDS = {"true": "True", "false": "False", "null": "None"}


@dataclass(frozen=True)
class VisibleTest:
    """Two Python expressions that should be equal."""

    expression: str
    expected: str


def visible_tests(prompt: str, entry_point: str) -> tuple[VisibleTest, ...]:
    """The prompt's examples, in order, each once."""
    text = _docstring(prompt, entry_point)
    tests = (
        _doctests(text, entry_point) or _asserts(text, entry_point) or _written(text, entry_point)
    )
    return tuple(dict.fromkeys(tests))


def _docstring(prompt: str, entry_point: str) -> str:
    """What the prompt says of the function: its docstring, or the module's."""
    try:
        module = ast.parse(prompt)
    except SyntaxError:
        return prompt
    functions = [
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name == entry_point
    ]
    return (ast.get_docstring(functions[-1]) if functions else ast.get_docstring(module)) or prompt


def _doctests(text: str, entry_point: str) -> list[VisibleTest]:
    try:
        examples = doctest.DocTestParser().get_examples(text)
    except ValueError:  # inconsistent indentation: not doctests after all
        return []
    tests = []
    for example in examples:
        source = example.source.strip()
        want = _literal(example.want)
        if want is not None and entry_point in source and _is_expression(source):
            tests.append(VisibleTest(source, want))
    return tests


def _asserts(text: str, entry_point: str) -> list[VisibleTest]:
    tests = []
    for line in text.split("\n"):
        if (
            not line.startswith("assert ")
            or entry_point not in line
            or not _is_expression(line.removeprefix("assert "))
        ):
            continue
        claim = ast.parse(line.removeprefix("assert "), mode="eval").body
        if (
            isinstance(claim, ast.Compare)
            and len(claim.ops) == 1
            and isinstance(claim.ops[0], ast.Eq)
        ):
            tests.append(VisibleTest(ast.unparse(claim.left), ast.unparse(claim.comparators[0])))
        else:
            tests.append(VisibleTest(f"bool({ast.unparse(claim)})", "True"))
    return tests


def _written(text: str, entry_point: str) -> list[VisibleTest]:
    """`entry_point(...)` followed by a sign or word that means "gives" and a literal."""
    tests = []
    call_start = re.compile(rf"(?<!def )\b{re.escape(entry_point)}\s*\(")
    for line in text.split("\n"):
        if (match := call_start.search(line)) is None:
            continue
        tail = line[match.start() :]
        for end in (m.end() for m in re.finditer(r"\)", tail)):
            if _is_call_of_literals(tail[:end]):
                gives = _SEPARATOR.match(tail[end:])
                want = _literal(tail[end:][gives.end() :]) if gives else None
                if want is not None:
                    tests.append(VisibleTest(tail[:end], want))
                break
    return tests


def _literal(text: str) -> str | None:
    """The literal that the text starts with, as source; what follows a full stop, a comment sign or
    a last ` = ` is considered too.
    """
    text = text.strip()
    for variant in (
        text,
        text.rstrip("."),
        re.split(r"\s+#|\s+\(", text)[0],
        text.rpartition(" = ")[2],
    ):
        candidate = _WORDS.get(variant.strip(), variant.strip())
        try:
            return repr(ast.literal_eval(candidate))
        except (ValueError, SyntaxError, TypeError, MemoryError):
            continue
    return None


def _is_expression(source: str) -> bool:
    try:
        ast.parse(source, mode="eval")
    except SyntaxError:
        return False
    return True


def _is_call_of_literals(source: str) -> bool:
    try:
        call = ast.parse(source, mode="eval").body
    except SyntaxError:
        return False
    if not isinstance(call, ast.Call):
        return False
    try:
        for argument in (*call.args, *(k.value for k in call.keywords)):
            ast.literal_eval(argument)
    except (ValueError, TypeError):
        return False
    return True
