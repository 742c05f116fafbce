"""The program behind an agent's `test` and `run`: it runs inside the sandbox and prints what the
agent will read.

Sent into the sandbox as text, behind that of `code_loading`. It decides nothing: a solution that
fools it fools its own author.
"""

import json
import linecache
import math
import os
import sys
import traceback
from contextlib import suppress
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:  # its text comes before this one
    from envs.coding.in_sandbox.extraction import extract
    from envs.coding.in_sandbox.loading import load, settle

_OF_THE_AGENT = ("solution.py", "snippet.py", "<test>")
# The process ends with it.
_out = open(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
"""Of this program alone: a solution may close or replace its own."""


def say(text: str) -> None:
    """Print a line, behind what the solution has printed."""
    with suppress(Exception):  # the solution's own stream may be anything by now
        sys.stdout.flush()
    _out.write(f"{text}\n")
    _out.flush()


def solution(source: str) -> dict[str, Any]:
    """The solution's names. Ends the program, with the traceback, where it does not load."""
    scope = dict[str, Any]()
    attempt("solution.py", source, lambda: scope.update(load(source)))
    return scope


def attempt(name: str, source: str, action: Any) -> None:
    """Run a program; an error is printed, with its lines, and ends this one."""
    linecache.cache[name] = (len(source), None, [f"{line}\n" for line in source.split("\n")], name)
    try:
        action()
    except SystemExit:
        say(f"{name} ended the program.")
        leave(1)
    except BaseException as error:
        complain(error)
        leave(1)


def leave(code: int) -> None:
    """End at once, as a submission does: threads of the solution have nothing more to say."""
    os._exit(code)


def complain(error: BaseException) -> None:
    """The traceback without this program's own frames."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename not in _OF_THE_AGENT:
        trace = trace.tb_next
    say("".join(traceback.format_exception(type(error), error, trace, chain=False)).rstrip())


def close(got: Any, want: Any) -> bool:
    """Equal; floats to six digits."""
    if isinstance(want, float) and isinstance(got, (int, float)):
        return got == want or math.isclose(got, want, rel_tol=1e-6, abs_tol=1e-6)
    if isinstance(want, (list, tuple)) and type(got) is type(want) and len(got) == len(want):
        return all(map(close, got, want))
    return bool(got == want)


def test(source: str, cases: list[list[str]]) -> None:
    """Run [expression, expected] pairs on a solution and say how each went."""
    scope = {"math": math, **solution(source)}
    passes = 0
    for expression, expected in cases:
        want = eval(expected, dict(scope))
        try:
            got = eval(compile(expression, "<test>", "eval"), dict(scope))
            right = close(got, want)
        except BaseException as error:
            say(f"FAILED {expression}")
            complain(error)
            continue
        if right:
            passes += 1
            say(f"ok     {expression}")
        else:
            say(f"FAILED {expression}\n  expected {want!r}\n  got      {got!r}")
    say(summary(passes, len(cases)))
    leave(0)


def summary(passed: int, of: int) -> str:
    """The last line of what is said about tests."""
    return f"{passed} of {of} visible tests pass."


def passed_of(line: str, of: int) -> int | None:
    """How many of the tests passed, by that line; None for any other line."""
    counts = [count for count in range(of + 1) if line == summary(count, of)]
    return counts[0] if counts else None


def attempt_answer(texts: list[str], prompt: str, entry_point: str, cases: Any) -> None:
    """Say which program an answer holds, as JSON on the first line, then how its tests went."""
    program, defines = extract(texts, prompt, entry_point)
    say(json.dumps(program if defines else ""))
    if defines:
        test(program, cases)


def run(source: str, snippet: str) -> None:
    """Run the agent's own program where the solution's names are known."""
    scope = solution(source) | {"__name__": "__main__"}
    settle(snippet)
    attempt(
        "snippet.py",
        snippet,
        lambda: exec(compile(snippet, "snippet.py", "exec", dont_inherit=True), scope),
    )
