"""Verdicts on programs: the candidate only produces values, and everything that decides happens
here, outside the sandbox.

A candidate's outputs come back as plain data, in order, one line per call. A missing, extra or
malformed line is a failed test, so leaving early, printing noise or writing into the channel can
only lose.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import ceil, log2
from typing import Any

from envs.coding.comparison import Comparison, has_oracle
from envs.coding.in_sandbox.harness import RAISED, Digest, Opaque, decode, digest, line
from envs.coding.tasks import CodeTask
from envs.sandbox import Completed

MIN_LIMIT_S = 1.0
LIMIT_FACTOR = 4.0
TASK_LIMIT_S = 60.0
"""EvalPlus's: a call may take max(MIN_LIMIT_S, LIMIT_FACTOR x the canonical solution's time), all
calls TASK_LIMIT_S.
"""
_LATE_S = 0.1
"""As much later the sandbox notices the end of a call's time."""
_WRONG = "wrong output"
_SILENT = "no output"
_SLOW = "too slow"
_HUGE = "an output far larger than expected"
_SPARE = 1 << 16
"""Equal values may be written in different lengths (1 and 1.0, a set with duplicates in a list),
but not more different than this.
"""
_LINE = re.compile(rb"\[(\d{1,9}), (\d{1,20}(?:\.\d{1,20})?(?:e-?\d{1,3})?), (.*)\]")
_JSON = json.JSONDecoder(parse_constant=float)
"""Every NaN another object: a list with one and the same NaN would be equal to itself."""


@dataclass(frozen=True)
class Verdict:
    """`failed_test` counts base tests first, then plus tests; None when all pass."""

    passed: bool
    failed_test: int | None = None
    reason: str = ""

    @property
    def wrong_output(self) -> bool:
        """Whether it failed by what it answered, and not by giving no answer."""
        return self.reason in (_WRONG, _HUGE)


@dataclass(frozen=True)
class Truth:
    """What the canonical solution answers: encoded outputs and processor seconds, base
    tests first.
    """

    outputs: tuple[str, ...]
    seconds: tuple[float, ...]

    @property
    def limits(self) -> list[float]:
        """Seconds that each call may take."""
        return [max(MIN_LIMIT_S, LIMIT_FACTOR * seconds) for seconds in self.seconds]

    @property
    def limit(self) -> float:
        """Seconds after which any call is ended: no less than what the slowest may take."""
        return float(2 ** ceil(log2(max(self.limits, default=MIN_LIMIT_S))))


def looked_into(task: CodeTask) -> bool:
    """Whether more than equality may count, so that outputs must come out whole; the task itself
    says so."""
    return task.atol != 0 or has_oracle(task.dataset, task.entry_point)


def compare(task: CodeTask, truth: Truth, completed: Completed) -> Verdict:
    """The verdict on a candidate's run."""
    if completed.stdout == _exactly(truth) and not has_oracle(task.dataset, task.entry_point):
        return Verdict(True)  # the usual right program, without decoding anything
    answers = rows(completed.stdout)
    limits = truth.limits
    for start, calls in ((0, task.base_inputs), (len(task.base_inputs), task.plus_inputs)):
        comparison = Comparison(task.dataset, task.entry_point, task.atol)
        for number in range(start, start + len(calls)):
            row = next(answers, None)
            arguments = partial(copy.deepcopy, calls[number - start])
            if reason := _complaint(row, completed, limits[number]) or _wrong(
                row, truth.outputs[number], comparison, arguments
            ):
                return Verdict(False, number, reason)
    return (
        Verdict(True)
        if next(answers, None) is None
        else Verdict(False, len(truth.outputs), "more outputs than calls")
    )


def _complaint(row: "_Row | None", completed: Completed, limit: float) -> str:
    """What is to be said of a call before its value is looked at; nothing for one that answered in
    time."""
    if row is None:
        return f"{_SILENT} ({completed.ending})"
    if row.value == RAISED:
        return f"{_SILENT} (raised)"
    return _SLOW if row.seconds > limit + _LATE_S else ""


def _wrong(
    row: "_Row | None",
    expected: str,
    comparison: Comparison,
    arguments: Callable[[], Sequence[Any]],
) -> str:
    """What is wrong with a value; nothing for a right one."""
    assert row is not None
    if (
        len(row.value) > 4 * len(expected) + _SPARE
    ):  # not even decoded, as it could be made to take for ever
        return _HUGE
    return (
        ""
        if comparison.equal(arguments, *_alike(decode(_JSON.decode(expected)), _value(row.value)))
        else _WRONG
    )


def _alike(expected: Any, output: Any) -> tuple[Any, Any]:
    """Both as digests where one of them is: equal lists of numbers come whole where one is a
    fraction, and else as a digest."""
    if isinstance(output, Digest) and isinstance(expected, list | tuple):
        return Digest(digest(expected)), output
    return expected, output


def _exactly(truth: Truth) -> bytes | None:
    """What comes out of a program whose outputs are written as the expected ones; None where some
    are not equal to themselves.
    """
    if any("NaN" in output or '{"o"' in output for output in truth.outputs):
        return None
    return "".join(line(index, 0.0, output) for index, output in enumerate(truth.outputs)).encode()


@dataclass(frozen=True)
class _Row:
    """One call as the sandbox told it; `value` is still encoded."""

    seconds: float
    value: str


def rows(stdout: bytes) -> Iterator[_Row]:
    """The rows in order, up to the first line that is not what the next row must be."""
    start = 0
    for index in count():
        end = stdout.find(b"\n", start)  # not split at once: most of the lines may be noise
        match = _LINE.fullmatch(stdout, start, end) if end >= 0 else None
        if match is None or int(match[1]) != index:
            return
        yield _Row(float(match[2]), match[3].decode(errors="replace"))
        start = end + 1


def _value(text: str) -> Any:
    try:
        return decode(_JSON.decode(text))
    except Exception:  # a boundary: whatever a candidate has written, it is at worst no right value
        return Opaque("malformed")
