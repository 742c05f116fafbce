"""Programming tasks: HumanEval+, MBPP+ and a few of our own. A task is data; nothing of it runs here.

The two benchmarks are read where `R2V_DATA_DIR` (or the caller) says, else from a copy that is downloaded once and checked
against its digest. What an agent may test against (`visible`) comes from the examples in the prompt and from nowhere else.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from envs.code_examples import VisibleTest, visible_tests
from r2v_dist.errors import RuntimeFailure, UsageError

Dataset = Literal["humaneval_plus", "mbpp_plus", "shipped"]
Inputs = tuple[tuple[Any, ...], ...]
DOWNLOADS = Path("~/.cache/r2v/data")


@dataclass(frozen=True)
class _Source:
    """Where a benchmark lies below a data directory, and the one revision of it that is used."""

    file: str
    url: str
    sha256: str


_RELEASES = "https://raw.githubusercontent.com/evalplus"
_SOURCES = {
    "humaneval_plus": _Source(
        "humaneval/HumanEvalPlus.jsonl.gz",
        f"{_RELEASES}/humanevalplus_release/200defce9e3429d28ca215b6dd061c0f7f31c18b/HumanEvalPlus.jsonl.gz",
        "272720b90ac375502c8ed23cd791c2a93dfb22a911641a494da74a426c09f101",
    ),
    "mbpp_plus": _Source(
        "mbppplus/MbppPlus.jsonl.gz",
        f"{_RELEASES}/mbppplus_release/dadf43da556a00f7bacd71cb154f2932757d9144/MbppPlus.jsonl.gz",
        "af43697e8791c4c149bdfd6b489d8b5412507551ac20e28a439f650b8225db63",
    ),
}


@dataclass(frozen=True, eq=False)
class CodeTask:
    """One function to write. Every input is the tuple of a call's arguments; expected outputs are those of the canonical solution.

    `canonical_solution` continues `prompt`; `code` is the two together. `atol` is the absolute tolerance of float outputs, 0 for
    the default rules.
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
    prefixes: dict[str, Dataset] = {"HumanEval": "humaneval_plus", "Mbpp": "mbpp_plus", "R2V": "shipped"}
    prefix = task_id.partition("/")[0]
    if prefix not in prefixes:
        raise UsageError(f"task {task_id}: no such task; ids begin with {', '.join(f'{p}/' for p in prefixes)}")
    return prefixes[prefix]


def task_ids(dataset: Dataset, data_dir: str = "") -> list[str]:
    """Every task of a dataset, in the dataset's order. Raises UsageError or RuntimeFailure where it cannot be had."""
    return list(_rows(dataset, data_dir or os.environ.get("R2V_DATA_DIR", "")))


@lru_cache(maxsize=64)
def load_task(dataset: Dataset, task_id: str, data_dir: str = "") -> CodeTask:
    """One task. Raises UsageError for an id that the dataset does not have."""
    rows = _rows(dataset, data_dir or os.environ.get("R2V_DATA_DIR", ""))
    if task_id not in rows:
        raise UsageError(f"task {task_id}: {dataset} has no such task; the first is {next(iter(rows))}")
    row = json.loads(rows[task_id])
    convert: Callable[[list[Any]], Sequence[Any]] = _conversion(task_id) if dataset == "mbpp_plus" else tuple
    prompt, entry_point = row["prompt"], row["entry_point"]
    return CodeTask(
        id=task_id,
        dataset=dataset,
        prompt=prompt,
        entry_point=entry_point,
        canonical_solution=row["canonical_solution"],
        base_inputs=tuple(tuple(convert(arguments)) for arguments in row["base_input"]),
        plus_inputs=tuple(tuple(convert(arguments)) for arguments in row["plus_input"]),
        atol=float(row["atol"]),
        contract=row["contract"],
        visible=visible_tests(prompt, entry_point),
    )


@lru_cache(maxsize=8)
def _rows(dataset: Dataset, data_dir: str) -> dict[str, str]:
    """The dataset's lines by task id, in order; a line is parsed only when its task is asked for."""
    if dataset == "shipped":
        lines = files("envs").joinpath("data/code_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    else:
        lines = gzip.decompress(data_file(dataset, data_dir).read_bytes()).decode().splitlines()
    return {json.loads(line)["task_id"]: line for line in lines if line.strip()}


def data_file(dataset: Dataset, data_dir: str = "") -> Path:
    """The benchmark's file (JSON lines, gzipped). Raises UsageError or RuntimeFailure where it cannot be had."""
    source, data_dir = _SOURCES[dataset], data_dir or os.environ.get("R2V_DATA_DIR", "")
    if data_dir:
        path = Path(data_dir).expanduser() / source.file
        if not path.is_file():
            raise UsageError(f"R2V_DATA_DIR = {data_dir}: {source.file} is not there; correct the directory, or unset it to download")
        return path
    path = DOWNLOADS.expanduser() / source.file
    if not path.is_file():
        _download(source, path)
    return path


def _download(source: _Source, path: Path) -> None:
    import httpx

    try:
        answer = httpx.get(source.url, follow_redirects=True, timeout=60.0)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise RuntimeFailure(
            f"{source.url} cannot be had ({type(error).__name__}: {error}); put {source.file} into a directory and set R2V_DATA_DIR to it"
        ) from None
    if hashlib.sha256(answer.content).hexdigest() != source.sha256:
        raise RuntimeFailure(f"{source.url} is not the file this version was tested with (sha256 differs); set R2V_DATA_DIR to a good copy")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(answer.content)
    partial.replace(path)


def _tuples(items: list[Any]) -> list[Any]:
    return [tuple(item) for item in items]


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


_Conversion = Callable[[list[Any]], Sequence[Any]]
_MBPP_TYPES: tuple[tuple[tuple[int, ...], _Conversion], ...] = (
    (
        (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
        _tuples,
    ),
    (
        (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
        lambda a: [_tuples(x) for x in a],
    ),
    ((75, 413, 444, 753), lambda a: [_tuples(a[0]), a[1]]),
    ((106, 750), lambda a: [a[0], tuple(a[1])]),
    ((115,), lambda a: [[set(x) if isinstance(x, list) and x else {} for x in a[0]]]),
    ((124,), lambda a: [float(a[0]), complex(a[1])]),
    ((250, 307, 405, 446, 617, 720, 763, 808), lambda a: [tuple(a[0]), *a[1:]]),
    ((252,), lambda a: [complex(a[0])]),
    ((259, 401, 445), lambda a: [tuple(_tuples(x)) for x in a]),
    ((278,), lambda a: [tuple(tuple(x) if isinstance(x, list) else x for x in a[0])]),
    ((580, 615, 791), lambda a: [_deep(x) for x in a]),
    ((722,), lambda a: [{key: tuple(value) for key, value in a[0].items()}, *a[1:]]),
)
"""JSON has lists only: MBPP task numbers whose arguments are tuples, sets or complex numbers, as EvalPlus 0.3.1 restores them."""


def _conversion(task_id: str) -> _Conversion:
    number = int(task_id.rpartition("/")[2])
    return next((convert for numbers, convert in _MBPP_TYPES if number in numbers), list)
