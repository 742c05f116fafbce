"""Programming tasks: HumanEval+, MBPP+ and a few of our own. A task is data; nothing of it runs
here.

What an agent may test against (`visible`) comes from the examples in the prompt and from nowhere
else.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from envs.coding.benchmark_files import Dataset, lines_by_task
from envs.coding.mbpp_inputs import conversion
from envs.coding.visible_tests import VisibleTest, visible_tests
from r2v_dist.errors import UsageError

Inputs = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, eq=False)
class CodeTask:
    """One function to write. Every input is the tuple of a call's arguments; expected outputs are
    those of the canonical solution.

    `canonical_solution` continues `prompt`; `code` is the two together. `atol` is the absolute
    tolerance of float outputs, 0 for the default rules.
    """

    id: str
    dataset: Dataset
    prompt: str
    entry_point: str
    canonical_solution: str
    base_inputs: Inputs
    plus_inputs: Inputs
    atol: float
    contract: str
    visible: tuple[VisibleTest, ...]

    @property
    def code(self) -> str:
        """The canonical program."""
        return self.prompt + self.canonical_solution


def dataset_of(task_id: str) -> Dataset:
    """The dataset that a task's id belongs to. Raises UsageError for none."""
    prefixes: dict[str, Dataset] = {
        "HumanEval": "humaneval_plus",
        "Mbpp": "mbpp_plus",
        "R2V": "shipped",
    }
    prefix = task_id.partition("/")[0]
    if prefix not in prefixes:
        raise UsageError(
            f"task {task_id}: no such task; ids begin with {', '.join(f'{p}/' for p in prefixes)}"
        )
    return prefixes[prefix]


def task_ids(dataset: Dataset, data_dir: str = "") -> list[str]:
    """Every task of a dataset, in the dataset's order. Raises UsageError or RuntimeFailure where it
    cannot be had.
    """
    return list(lines_by_task(dataset, data_dir or os.environ.get("R2V_DATA_DIR", "")))


@lru_cache(maxsize=64)
def load_task(dataset: Dataset, task_id: str, data_dir: str = "") -> CodeTask:
    """One task. Raises UsageError for an id that the dataset does not have."""
    rows = lines_by_task(dataset, data_dir or os.environ.get("R2V_DATA_DIR", ""))
    if task_id not in rows:
        raise UsageError(
            f"task {task_id}: {dataset} has no such task; the first is {next(iter(rows))}"
        )
    row = json.loads(rows[task_id])
    convert: Callable[[list[Any]], Sequence[Any]] = (
        conversion(task_id) if dataset == "mbpp_plus" else tuple
    )
    prompt = row["prompt"]
    entry_point = row["entry_point"]
    return CodeTask(
        id=task_id,
        dataset=dataset,
        prompt=prompt,
        entry_point=entry_point,
        canonical_solution=row["canonical_solution"],
        base_inputs=_inputs(convert, row, "base_input"),
        plus_inputs=_inputs(convert, row, "plus_input"),
        atol=float(row["atol"]),
        contract=row["contract"],
        visible=visible_tests(prompt, entry_point),
    )


def _inputs(
    convert: Callable[[list[Any]], Sequence[Any]], row: dict[str, Any], field: str
) -> Inputs:
    try:
        return tuple(tuple(convert(arguments)) for arguments in row[field])
    except (TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        raise UsageError(
            f"task {row['task_id']}: {field} does not have the form of this task's arguments "
            f"({error})"
        ) from None
