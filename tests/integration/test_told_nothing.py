"""The sandbox tells a candidate nothing of a verdict: on every task of both benchmarks a program
that answers from whatever it finds beside itself fails, and the canonical solution passes.
"""

import os
from typing import Any

import pytest

from envs.coding.benchmark_files import Dataset
from envs.coding.judge import Judge
from envs.coding.tasks import CodeTask, load_task, task_ids
from tests.codes import require_data

TELLING = '''
import sys

WORDS = {words}
"""The answers that the prompt names, by how long they are when they are written."""


def numbers(value, depth=0):
    """All numbers in what a frame of the harness holds."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and depth < 4:
        return [number for item in value for number in numbers(item, depth + 1)]
    return [value] if type(value) in (int, float) else []


def {entry_point}(*arguments, **named):
    frame = sys._getframe(1)
    told = numbers(dict(frame.f_locals))
    lengths = [(number - 4096) // 4 for number in told if number > 4096]
    return next((WORDS[length] for length in lengths if length in WORDS), None)
'''
"""What passed 88 tasks when the budget of a call was four times its expected output and 4,096."""
PAIRS = (("YES", "NO"), ("Yes", "No"), (True, False))


def _telling(task: CodeTask) -> str:
    """The program that knows nothing of the task but the words of its prompt."""
    words = next(
        pair
        for pair in PAIRS
        if all(str(word) in task.prompt for word in pair) or pair == (True, False)
    )
    by_length = {len(str(word)) + 2 * isinstance(word, str): word for word in words}
    return TELLING.format(words=by_length, entry_point=task.entry_point)


def test_the_program_answers_where_it_is_told_a_length() -> None:
    scope: dict[str, Any] = {}
    exec(_telling(load_task("shipped", "R2V/3")), scope)

    def told(budget: int) -> object:
        call = [b"", 1.0, budget]
        return scope["luhn_valid"](call)

    assert told(4 * len("true") + 4096) is True
    assert told(4 * len("false") + 4096) is False
    assert told(4096) is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dataset", ["humaneval_plus", "mbpp_plus"])
def test_what_the_sandbox_tells_passes_no_task(judge: Judge, dataset: Dataset) -> None:
    require_data()
    tasks = [load_task(dataset, name) for name in task_ids(dataset)]
    telling = judge.verdicts([(task, _telling(task)) for task in tasks], os.cpu_count() or 1)
    passed = [task.id for task, verdict in zip(tasks, telling, strict=True) if verdict.passed]
    assert not passed


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dataset", ["humaneval_plus", "mbpp_plus"])
def test_every_canonical_solution_passes(judge: Judge, dataset: Dataset) -> None:
    require_data()
    tasks = [load_task(dataset, name) for name in task_ids(dataset)]
    verdicts = judge.verdicts([(task, task.code) for task in tasks], os.cpu_count() or 1)
    failed = [task.id for task, verdict in zip(tasks, verdicts, strict=True) if not verdict.passed]
    assert not failed
