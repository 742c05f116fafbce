"""Which program an answer of an instruct model means."""

import pytest

from envs.coding.actions import fenced, programs, word_alone
from envs.coding.in_sandbox.extraction import extract

PROMPT = '''from typing import List

def helper(x: int) -> int:
    """Twice x."""
    return 2 * x

def f(xs: List[int]) -> int:
    """The sum of the doubled numbers.
    >>> f([1, 2])
    6
    """'''
BODY = "return sum(helper(x) for x in xs)"


def meant(answer: str) -> dict[str, object] | None:
    """The names of the program that an answer means; None where it defines no f."""
    program, defines = extract(programs(answer), PROMPT, "f")
    if not defines:
        return None
    scope = dict[str, object]()
    exec(program, scope)
    return scope


def solves(answer: str) -> bool:
    scope = meant(answer)
    return scope is not None and scope["f"]([1, 2]) == 6  # type: ignore[operator]


WHOLE = f"{PROMPT}\n    {BODY}"
ALONE = "def f(xs):\n    return 2 * sum(xs)"


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n{ALONE}\n```",
        f"```python\n{WHOLE}\n```",
        f"Certainly! Here it is:\n\n```python\n{ALONE}\n```\n\nIt doubles every number.",
        f"```markdown\n```python\n{ALONE}\n```\n```",
        f"```bash\npython f.py\n```\n```python\n{ALONE}\n```",
        f"```python\n{ALONE}\n\nprint(f(input()))\nassert f([1]) == 3\n```",
        f"```python\n{ALONE}\n\nif __name__ == '__main__':\n    raise SystemExit(f([1]))\n```",
        f"```python\n{ALONE}\n```\nUse it so:\n```python\nf = print(f([1]))\n```",
        "First a helper.\n```python\ndef g(x):\n    return 2 * x\n```\nThen:\n"
        "```python\ndef f(xs):\n    return sum(map(g, xs))\n```",
        f"```python\n{ALONE}\n\ndef test_f():\n    assert f([",
        f"```python\n{ALONE}\n\n# Now the tests, which",
        f"```python\ndef f(xs):\n    {BODY}\n```",
        "```python\ndef f(xs: List[int]) -> int:\n    return 2 * reduce(add, xs)\n"
        "from operator import add\n```",
        "```python\ndef f(xs):\n    return int(2 * math.fsum(xs))\n```",
        f"    {BODY}",
        f"```python\n{BODY}\n```",
        f"{ALONE}\n\nThis doubles every number.",
        f"Here you are:\n{ALONE}",
        f"write\n```python\n{ALONE}\n```",
        f"write\n{ALONE}",
        "```python\nimport absent_module\n\ndef f(xs):\n    return 2 * sum(xs)\n```",
        "```python\nimport json\nTWO = 2\n\ndef f(xs):\n    def g(TWO):\n        return TWO\n"
        "    return TWO * sum(map(g, xs))\n```",
        "```python\ndef f(xs):\n    def g(x):\n        reduce = x\n        return reduce\n"
        "    return 2 * reduce(int.__add__, map(g, xs))\n```",
        "```python\nclass Sum:\n    def of(self, xs):\n        return 2 * sum(xs)\n\n"
        "f = Sum().of\n```",
    ],
)
def test_the_program_is_found(answer: str) -> None:
    assert solves(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot solve this.",
        "",
        "```python\n```",
        "```python\ndef g(xs):\n    return 2 * sum(xs)\n```",
        "```python\ndef f(xs:\n```",
        "```json\n{}\n```",
        "(" * 20_000,
        "```python\n" + "f = " + "-" * 20_000 + "1\n```",
    ],
)
def test_an_answer_without_a_program_is_none(answer: str) -> None:
    assert meant(answer) is None


def test_an_answer_that_is_cut_is_known_as_such() -> None:
    assert [part.closed for part in fenced(f"```python\n{ALONE}\n```")] == [True]
    assert [part.closed for part in fenced(f"```python\n{ALONE}")] == [False]


def test_a_function_that_is_cut_keeps_what_parses() -> None:
    assert meant("```python\ndef f(xs):\n    for x in xs:\n        total +=") is None
    scope = meant("```python\ndef f(xs):\n    total = 2 * sum(xs)\n    print(total")
    assert scope is not None
    assert scope["f"]([1]) is None  # type: ignore[operator]


def test_what_an_answer_sets_up_at_the_top_stays() -> None:
    answer = (
        "```python\nimport sys\nsys.setrecursionlimit(5000)\nLIMIT: int = 3\n"
        "TABLE = {}\nfor n in range(LIMIT):\n    TABLE[n] = 2 * n\n\n"
        "def f(xs):\n    return sum(TABLE[x] for x in xs)\n```"
    )
    scope = meant(answer)
    assert scope is not None
    assert scope["f"]([1, 2]) == 6  # type: ignore[operator]
    program, _ = extract(programs(answer), PROMPT, "f")
    assert "setrecursionlimit" in program


def test_the_first_of_two_solutions_counts() -> None:
    other = "def f(xs):\n    return -1"
    assert solves(f"```python\n{ALONE}\n```\nor\n```python\n{other}\n```")


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("submit", "submit"),
        ("Submit.", "submit"),
        ("run\nprint(1)", "run"),
        ("**test**\n", "test"),
        ("Run the program below", ""),
        ("Writing it:\n```python\nx\n```", ""),
        ("", ""),
    ],
)
def test_a_word_counts_where_it_stands_alone(answer: str, word: str) -> None:
    assert word_alone(answer) == word
