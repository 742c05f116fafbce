"""What goes into the sandbox tells nothing, and whatever comes out of it is a verdict; no program
is run here.
"""

import json
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from envs.coding.judge import Judge
from envs.coding.tasks import CodeTask
from envs.coding.verdict import Verdict
from envs.sandbox import Completed, Ending, Limits
from r2v_dist.errors import RuntimeFailure

CALLS = 3


class Scripted:
    """In place of a sandbox: says what a canonical solution says, and once `judging` what a
    candidate does.
    """

    def __init__(
        self,
        truth: Sequence[str],
        seconds: Sequence[float] = (),
        candidate: bytes = b"",
        ending: Ending = Ending.EXITED,
    ) -> None:
        self._truth, self._seconds = truth, seconds or [0.0] * len(truth)
        self._candidate, self._ending = candidate, ending
        self.judging = False
        self.asked: list[tuple[Any, ...]] = []
        """What was given to the sandbox for the candidate."""

    def run(
        self,
        source: str,
        stdin: bytes = b"",
        files: Mapping[str, bytes] | None = None,
        limits: Limits | None = None,
    ) -> Completed:
        rows = (f"[{i}, {self._seconds[i]!r}, {self._truth[i]}]\n" for i in range(len(self._truth)))
        if not self.judging:
            return Completed(Ending.EXITED, 0, "".join(rows).encode(), b"", 0.1)
        self.asked.append((source, stdin, files, limits))
        return Completed(self._ending, 0, self._candidate, b"", 0.1)


def task(**changed: Any) -> CodeTask:
    inputs = tuple((i,) for i in range(CALLS))
    fields = {
        "id": "X/1",
        "dataset": "shipped",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": "    return x\n",
    }
    return CodeTask(
        **(
            fields
            | {"base_inputs": inputs, "plus_inputs": (), "atol": 0.0, "contract": "", "visible": ()}
            | changed
        )
    )


def judged(sandbox: Scripted, cache: Path, **changed: Any) -> Verdict:
    judge = Judge(sandbox, cache)  # type: ignore[arg-type]
    judge.truth(task(**changed))
    sandbox.judging = True
    return judge.verdict(task(**changed), "def f(x): pass\n")


def rows(*values: str) -> bytes:
    return "".join(f"[{i}, 0.0, {value}]\n" for i, value in enumerate(values)).encode()


TRUTHS: dict[str, list[str]] = {
    "short words": ["true", "false", "null"],
    "other short words": ["false", "true", "true"],
    "one long string": [json.dumps("x" * 3000), '""', "1"],
    "a digest": ['{"h": "00"}', "1", "2"],
    "a list of floats": [json.dumps([0.5] * 5000), "0.5", "1"],
}


@pytest.mark.parametrize("atol", [0.0, 1e-4])
def test_what_a_candidate_is_given_does_not_depend_on_what_is_expected(
    atol: float, tmp_path: Path
) -> None:
    given = set()
    for name, truth in TRUTHS.items():
        if atol and name == "a digest":
            continue
        sandbox = Scripted(truth, candidate=rows("7"))
        judged(sandbox, tmp_path / name, atol=atol)
        given.add(sandbox.asked[0])
    assert len(given) == 1


def test_what_a_candidate_is_given_does_not_depend_on_which_call_was_slow(tmp_path: Path) -> None:
    given = set()
    for number, seconds in enumerate(
        [(0.9, 0.0, 0.0), (0.0, 0.9, 0.0), (0.6, 0.9, 0.8), (0.0, 0.0, 0.7)]
    ):
        sandbox = Scripted(["1", "2", "3"], seconds, rows("7"))
        judged(sandbox, tmp_path / str(number))
        given.add(sandbox.asked[0])
    assert len(given) == 1


@pytest.mark.parametrize("ending", list(Ending))
@pytest.mark.parametrize("said", [rows("1"), rows("7"), b"noise\n", b""])
def test_whether_a_candidate_runs_again_does_not_depend_on_whether_it_was_right(
    ending: Ending, said: bytes, tmp_path: Path
) -> None:
    sandbox = Scripted(["1", "2", "3"], candidate=said, ending=ending)
    assert not judged(sandbox, tmp_path).passed
    assert len(sandbox.asked) == (2 if ending in (Ending.SIGNALLED, Ending.TIMEOUT) else 1)


def test_a_call_is_compared_with_its_own_limit_where_it_says_how_long_it_took(
    tmp_path: Path,
) -> None:
    seconds = (0.0, 2.0, 0.0)
    quick = b"[0, 0.0, 1]\n[1, 7.5, 2]\n[2, 0.0, 3]\n"
    slow = b"[0, 1.5, 1]\n[1, 7.5, 2]\n[2, 0.0, 3]\n"
    assert judged(Scripted(["1", "2", "3"], seconds, quick), tmp_path / "a").passed
    assert judged(Scripted(["1", "2", "3"], seconds, slow), tmp_path / "b") == Verdict(
        False, 0, "too slow"
    )


COLLIDING = [f"[{k * ((1 << 61) - 1)}, 0]" for k in range(1, 2000)]
HOSTILE = [
    f'{{"c": [{10**400}, 0]}}',
    '{"c": [0, 1e999]}',
    '{"c": 5}',
    f'{{"i": "{"f" * 5000}"}}',
    '{"i": ""}',
    '{"i": 5}',
    '{"d": 5}',
    '{"d": [[[1], 2]]}',
    '{"d": [[{"d": []}, 2]]}',
    '{"s": [[1]]}',
    '{"s": 1}',
    '{"t": null}',
    '{"b": "0"}',
    '{"b": "\u00e9"}',
    '{"h": []}',
    '{"h": {"h": 1}}',
    '{"o": [[[]]]}',
    '{"e": "raised"}',
    '{"e": ["raised"]}',
    '{"x": 1}',
    "{}",
    "[" * 3000 + "]" * 3000,
    '{"t": [' * 3000 + "]}" * 3000,
    "9" * 5000,
    "-Infinity",
    "NaN",
    "1e999",
    '"\\ud800"',
    "true false",
    "",
    f'{{"d": [{", ".join(COLLIDING)}]}}',
]
ENTRIES = [
    ("shipped", "f", 0.0),
    ("shipped", "f", 1e-4),
    ("humaneval_plus", "find_zero", 1e-4),
    ("mbpp_plus", "Diff", 0.0),
    ("mbpp_plus", "sum_div", 0.0),
    ("mbpp_plus", "surface_Area", 1e-6),
    ("mbpp_plus", "digit_distance_nums", 0.0),
]


@pytest.mark.parametrize(("dataset", "entry_point", "atol"), ENTRIES)
@pytest.mark.parametrize(
    "expected", ["0.25", "[0.5, 0.25]", '{"c": [1.0, 2.0]}', '"ab"', '{"h": "00"}']
)
def test_whatever_a_candidate_writes_is_a_verdict(
    expected: str, dataset: str, entry_point: str, atol: float, tmp_path: Path
) -> None:
    if expected.startswith('{"h"') and (atol or dataset != "shipped"):
        return
    for value in HOSTILE:
        for said in (rows(value), rows(f"[{value}, {value}]")):
            sandbox = Scripted([expected] * CALLS, candidate=said)
            verdict = judged(sandbox, tmp_path, dataset=dataset, entry_point=entry_point, atol=atol)
            assert (verdict.passed, verdict.failed_test) in ((False, 0), (False, 1)), value


@pytest.mark.parametrize(
    "said",
    [
        b"[0, %s, 1]\n" % seconds
        for seconds in (b"9" * 400, b"1e999999999", b"-1", b"nan", b"1.", b"", b'"0"')
    ],
)
def test_a_row_that_no_harness_writes_is_no_row(said: bytes, tmp_path: Path) -> None:
    assert judged(Scripted(["1", "2", "3"], candidate=said), tmp_path) == Verdict(
        False, 0, "no output (exited)"
    )


def test_noise_costs_this_side_little_more_than_its_own_size(tmp_path: Path) -> None:
    noise = b"ab\n" * (4 << 20)
    tracemalloc.start()
    try:
        for said in (noise, rows("1") + noise):
            sandbox = Scripted(["1", "2", "3"], candidate=said)
            assert not judged(sandbox, tmp_path).passed
        assert tracemalloc.get_traced_memory()[1] < 64 << 20  # a list of its lines takes 150 MiB
    finally:
        tracemalloc.stop()


def test_equal_numbers_are_right_whichever_form_they_come_in(tmp_path: Path) -> None:
    from envs.coding.in_sandbox.harness import digest, dumps

    thirds = [n / 3 for n in range(5000)]
    whole = [float(n) for n in range(5000)]
    near = [number + 1e-9 for number in thirds]
    cases = [
        (thirds, dumps(thirds)),
        (thirds, dumps(near)),
        (whole, json.dumps({"h": digest(list(range(5000)))})),
    ]
    for number, (expected, said) in enumerate(cases):
        sandbox = Scripted([dumps(expected)] * CALLS, candidate=rows(*[said] * CALLS))
        assert judged(sandbox, tmp_path / str(number)).passed, said[:80]


def test_an_answer_that_is_far_too_large_is_wrong_by_what_it_says(tmp_path: Path) -> None:
    verdict = judged(Scripted(["1", "2", "3"], candidate=rows(json.dumps("x" * 100_000))), tmp_path)
    assert (verdict.passed, verdict.failed_test, verdict.wrong_output) == (False, 0, True)


def test_outputs_that_must_be_looked_into_and_are_too_large_are_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="more than 1048576 items"):
        judged(Scripted(['{"h": "00"}'] * CALLS), tmp_path, atol=1e-4)


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", '{"outputs": ["1"]}', '{"outputs": [], "seconds": []}', "\x00"]
)
def test_a_damaged_file_of_the_cache_is_made_again(damaged: str, tmp_path: Path) -> None:
    right = rows("1", "2", "3")
    assert judged(Scripted(["1", "2", "3"], candidate=right), tmp_path).passed
    [stored] = tmp_path.iterdir()
    before = stored.read_text()
    stored.write_text(damaged)
    assert judged(Scripted(["1", "2", "3"], candidate=right), tmp_path).passed
    assert stored.read_text() == before


class FailsAtFirst(Scripted):
    """Takes its time, and does not work the first time."""

    def run(self, *arguments: Any, **named: Any) -> Completed:
        completed = super().run(*arguments, **named)
        if self.judging:
            time.sleep(0.2)
        if len(self.asked) == 1:
            raise RuntimeFailure("the first time")
        return completed


def test_a_verdict_that_many_ask_for_at_once_is_given_once(tmp_path: Path) -> None:
    sandbox = FailsAtFirst(["true", "false", "null"], candidate=rows("true", "false", "null"))
    judge = Judge(sandbox, tmp_path)  # type: ignore[arg-type]
    judge.truth(task())
    sandbox.judging = True
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(judge.verdict, task(), "def f(x): pass\n") for _ in range(4)]
    failed = [one for one in asked if one.exception() is not None]
    assert [str(one.exception()) for one in failed] == ["the first time"]
    assert {one.result() for one in asked if one not in failed} == {Verdict(True)}
    assert judge.verdict(task(), "def f(x): pass\n").passed
    assert len(sandbox.asked) == 2
