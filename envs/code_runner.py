"""The program behind an agent's `test` and `run`: it runs inside the sandbox and prints what the agent will read.

Sent into the sandbox as text beside `solution.py`. It decides nothing: a solution that fools it fools its own author.
"""

import math
import sys
import traceback
from typing import Any


def load() -> dict[str, Any]:
    """The solution's names. Ends the program, with the traceback, where it does not load."""
    scope: dict[str, Any] = {"__name__": "solution"}
    with open("solution.py", encoding="utf-8") as file:
        source = file.read()
    attempt(source, "solution.py", scope)
    return scope


def attempt(source: str, name: str, scope: dict[str, Any]) -> None:
    """Run a file; an error is printed and ends the program."""
    try:
        exec(compile(source, name, "exec"), scope)
    except SystemExit:
        print(f"{name} ended the program.")
        sys.exit(1)
    except BaseException as error:
        complain(error)
        sys.exit(1)


def complain(error: BaseException) -> None:
    """The traceback without this program's own frame."""
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    print("".join(traceback.format_exception(type(error), error, trace, chain=False)).rstrip())


def close(got: Any, want: Any) -> bool:
    """Equal; floats to six digits."""
    if isinstance(want, float) and isinstance(got, (int, float)):
        return got == want or math.isclose(got, want, rel_tol=1e-6, abs_tol=1e-6)
    if isinstance(want, (list, tuple)) and type(got) is type(want) and len(got) == len(want):
        return all(map(close, got, want))
    return bool(got == want)


def test(cases: list[list[str]]) -> None:
    """Run [expression, expected] pairs and say how each went."""
    scope = {"math": math, **load()}
    passed = 0
    for expression, expected in cases:
        want = eval(expected, dict(scope))
        try:
            got = eval(compile(expression, "<test>", "eval"), dict(scope))
            right = close(got, want)
        except BaseException as error:
            print(f"FAILED {expression}")
            complain(error)
            continue
        if right:
            passed += 1
            print(f"ok     {expression}")
        else:
            print(f"FAILED {expression}\n  expected {want!r}\n  got      {got!r}")
    print(f"{passed} of {len(cases)} visible tests pass.")


def run(snippet: str) -> None:
    """Run the agent's own code where the solution's names are known."""
    attempt(snippet, "snippet.py", load())
