"""Which program an answer means: the parts of it that define the function asked for, made whole.

Sent into the sandbox as text, as parsing what a model wrote can end a process. It parses and runs
nothing. Invariant: what is chosen are lines of the answer or of the prompt, in their order, and
imports of the standard library.
"""

import ast
import builtins
import sys
import textwrap
from collections.abc import Iterable, Sequence

_MOST_CUTS = 400
"""Lines taken from the end of a program to find where it still parses."""
_STARTS = ("import ", "from ", "def ", "class ", "@", "async def ")
_NAMES = {
    "collections": "Counter OrderedDict defaultdict deque namedtuple",
    "functools": "cache cmp_to_key lru_cache reduce",
    "heapq": "heapify heappop heappush nlargest nsmallest",
    "itertools": "accumulate chain combinations groupby permutations product zip_longest",
    "math": "ceil factorial floor gcd inf isqrt pi prod sqrt",
    "typing": "Any Callable Dict Iterable List Optional Sequence Set Tuple Union",
}
"""What programs use without importing it, besides modules."""
_SETTINGS = ("setrecursionlimit", "seed")
"""Calls at the top of a program that are part of it."""


def extract(texts: Sequence[str], prompt: str, entry_point: str) -> tuple[str, bool]:
    """(program, whether it defines the function). Without a definition the program is the first
    text as it is, for its author to read what is wrong with it.
    """
    sources = [text for text in map(longest, texts) if text]
    prompt_source = longest(prompt)
    for text in sources:
        if entry_point in _bound(ast.parse(text).body):
            other_sources = [source for source in sources if source is not text]
            return _whole(text, [*other_sources, prompt_source], entry_point), True
    for text in sources:
        if body := _continued(prompt_source, text, entry_point):
            return _whole(body, [], entry_point), True
    return (texts[0] if texts else ""), False


def longest(text: str) -> str:
    """The longest beginning of the text, from its first line of code on, that parses; empty where
    there is none.
    """
    lines = textwrap.dedent(text).split("\n")
    if not _parses("\n".join(lines)):
        code = [n for n, line in enumerate(lines) if line.startswith(_STARTS)]
        lines = lines[code[0] :] if code else []
    for end in range(len(lines), max(0, len(lines) - _MOST_CUTS), -1):
        if lines[end - 1].strip() and _parses(beginning := "\n".join(lines[:end])):
            return beginning
    return ""


def _parses(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _continued(prompt: str, text: str, entry_point: str) -> str:
    """The prompt's function with the text as its body; empty where the text is no body."""
    returns = any(isinstance(node, ast.Return) for node in _outside_functions(ast.parse(text).body))
    if not returns or entry_point not in _bound(ast.parse(prompt).body if prompt else []):
        return ""
    program = f"{prompt.rstrip()}\n{textwrap.indent(text, '    ')}"
    return program if _parses(program) else ""


def _whole(text: str, sources: Sequence[str], entry_point: str) -> str:
    """What the function needs of a program, and what it needs besides: from the other parts of the
    answer, from the prompt, from the standard library.
    """
    code, names = _needed(text, {entry_point})
    parts = [code]
    for source in sources:
        missing_names = names - _defined(parts)
        if missing_names and source:
            extra_code, extra_names = _needed(source, missing_names)
            parts.insert(0, extra_code)
            names |= extra_names
    imports = [line for line in map(_import, sorted(names - _defined(parts))) if line]
    return "\n".join([*imports, *filter(None, parts)]) + "\n"


def _needed(text: str, targets: set[str]) -> tuple[str, set[str]]:
    """The lines of a program that bind the target names and whatever those use; all names used."""
    body = ast.parse(text).body
    nodes = list[ast.stmt]()
    names = set(targets)
    grown = True
    while grown:
        grown = False
        for node in body:
            if node not in nodes and _belongs(node, names):
                nodes.append(node)
                names |= _used(node)
                grown = True
    lines = text.split("\n")
    numbers = {n for node in nodes for n in range(_first_line(node) - 1, node.end_lineno or 0)}
    return "\n".join(lines[n] for n in sorted(numbers)), names


def _belongs(node: ast.stmt, names: set[str]) -> bool:
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        return True
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return True
    if isinstance(node, ast.Expr):
        call = node.value
        function = call.func if isinstance(call, ast.Call) else None
        if isinstance(function, ast.Attribute) and function.attr in _SETTINGS:
            return True
    if isinstance(node, ast.If) and "__name__" in _used(node.test):
        return False
    return not names.isdisjoint(_bound([node]) | _changed(node))


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _defined(parts: Iterable[str]) -> set[str]:
    names = set(dir(builtins))
    for part in parts:
        names |= _bound(ast.parse(part).body)
    return names


def _bound(body: Iterable[ast.stmt]) -> set[str]:
    """Names that statements bind where they stand."""
    names = set[str]()
    for node in _outside_functions(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
    return names


def _changed(node: ast.stmt) -> set[str]:
    """Names whose objects a statement fills: `table[0] = 1`, `table.append(1)`."""
    names = set[str]()
    for inner in _outside_functions([node]):
        if isinstance(inner, ast.Subscript | ast.Attribute):
            filled = isinstance(inner.ctx, ast.Store)
        elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
            inner, filled = inner.func, True
        else:
            continue
        if filled and isinstance(inner.value, ast.Name):
            names.add(inner.value.id)
    return names


def _outside_functions(body: Iterable[ast.AST]) -> Iterable[ast.AST]:
    """The nodes below, without what is inside functions and classes."""
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _outside_functions(ast.iter_child_nodes(node))


def _used(node: ast.AST) -> set[str]:
    """Names that a statement uses and does not make itself."""
    nodes = list(ast.walk(node))
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return names
    body_nodes = list(_outside_functions(node.body))
    local_names = {
        n.id for n in body_nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    local_names |= {n.arg for n in ast.walk(node.args) if isinstance(n, ast.arg)}
    global_names = {name for n in nodes if isinstance(n, ast.Global) for name in n.names}
    return names - (local_names - global_names) | global_names


def _import(name: str) -> str:
    if name in sys.stdlib_module_names:
        return f"import {name}"
    modules = [module for module, names in _NAMES.items() if name in names.split()]
    return f"from {modules[0]} import {name}" if modules else ""
