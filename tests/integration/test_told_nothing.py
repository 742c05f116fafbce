"""The sandbox tells a candidate nothing of a verdict: on every task of both benchmarks a program
that answers from whatever it finds beside itself fails, and the canonical solution passes.
"""

import os

import pytest

from envs.coding.tasks import CodeTask, Dataset, load_task, task_ids
from envs.coding.verdict import Judge
from tests.codes import require_data

TELLING = '''
import sys

WORDS = {words}
"""The answers that the prompt names, by how long they are when they are written."""


def numbers(value, depth=0):
    """All numbers in what the harness holds."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and depth < 4:
        return [number for item in value for number in numbers(item, depth + 1)]
    return [value] if type(value) in (int, float) else []


def {entry_point}(*arguments, **named):
    frame = sys._getframe(1)
    told = []
    while frame is not None:
        told += numbers(dict(frame.f_locals))
        frame = frame.f_back
    lengths = [*told, *((number - 4096) // 4 for number in told)]
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


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dataset", ["humaneval_plus", "mbpp_plus"])
def test_what_the_sandbox_tells_passes_no_task(judge: Judge, dataset: Dataset) -> None:
    require_data()
    tasks = [load_task(dataset, name) for name in task_ids(dataset)]
    telling = judge.verdicts([(task, _telling(task)) for task in tasks], os.cpu_count() or 1)
    passed = [task.id for task, verdict in zip(tasks, telling, strict=True) if verdict.passed]
    # An oracle of MBPP+ takes every answer; EvalPlus's does too.
    assert passed == [task.id for task in tasks if task.entry_point == "are_equivalent"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dataset", ["humaneval_plus", "mbpp_plus"])
def test_every_canonical_solution_passes(judge: Judge, dataset: Dataset) -> None:
    require_data()
    tasks = [load_task(dataset, name) for name in task_ids(dataset)]
    verdicts = judge.verdicts([(task, task.code) for task in tasks], os.cpu_count() or 1)
    failed = [task.id for task, verdict in zip(tasks, verdicts, strict=True) if not verdict.passed]
    assert not failed
