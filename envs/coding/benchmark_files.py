"""The files of HumanEval+, MBPP+ and the tasks that come with the project: where they lie, and
their lines by task id.

A benchmark is read where `R2V_DATA_DIR` (or the caller) says, else from a copy that is downloaded
once and checked against its digest. Invariant: a line that is handed out has every field that a
task needs; a file that is none is refused with its line and what is wrong there.
"""

import gzip
import hashlib
import json
import os
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from r2v_dist.config.places import CACHE_VARIABLE, cache_folder, make_cache, named_path
from r2v_dist.errors import RuntimeFailure, UsageError

Dataset = Literal["humaneval_plus", "mbpp_plus", "shipped"]
_KNOWN_FORMS = (
    (
        b"version https://git-lfs",
        "a git-lfs pointer and not the file itself; fetch it with `git lfs pull`",
    ),
    (b"<", "a web page, perhaps of a login; download the file again"),
    (b"[", "one JSON list; write one JSON object a line"),
    (b"PK", "a zip archive; unpack it"),
    (b"BZh", "a bzip2 file; unpack it"),
    (b"\xfd7zXZ", "an xz file; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it"),
)
"""How files begin that are taken for a benchmark."""
_FIELDS: dict[str, type | tuple[type, ...]] = {
    **{"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str},
    **{
        "base_input": (list, dict),
        "plus_input": (list, dict),
        "atol": (int, float),
        "contract": str,
    },
}
_IDS = {
    "humaneval_plus": re.compile(r"HumanEval/\d+"),
    "mbpp_plus": re.compile(r"Mbpp/\d+"),
    "shipped": re.compile(r"R2V/\d+"),
}


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
        f"{_RELEASES}/humanevalplus_release/200defce9e3429d28ca215b6dd061c0f7f31c18b"
        "/HumanEvalPlus.jsonl.gz",
        "272720b90ac375502c8ed23cd791c2a93dfb22a911641a494da74a426c09f101",
    ),
    "mbpp_plus": _Source(
        "mbppplus/MbppPlus.jsonl.gz",
        f"{_RELEASES}/mbppplus_release/dadf43da556a00f7bacd71cb154f2932757d9144/MbppPlus.jsonl.gz",
        "af43697e8791c4c149bdfd6b489d8b5412507551ac20e28a439f650b8225db63",
    ),
}


@lru_cache(maxsize=8)
def lines_by_task(dataset: Dataset, data_dir: str) -> dict[str, str]:
    """The dataset's lines by task id, in order; a task is made of its line only when it is asked
    for.
    """
    if dataset == "shipped":
        return _index(
            files("envs").joinpath("data/code_tasks.jsonl").read_bytes(),
            "code_tasks.jsonl",
            dataset,
        )
    path = data_file(dataset, data_dir)
    return _index(_read(path), str(path), dataset)


def identity(dataset: Dataset, data_dir: str = "") -> str:
    """Names the content of a benchmark's file, wherever it lies. One that is still to be downloaded
    is known beforehand.
    """
    if dataset == "shipped":
        return "shipped"
    source = _SOURCES[dataset]
    data_dir = data_dir or os.environ.get("R2V_DATA_DIR", "")
    path = data_file(dataset, data_dir) if data_dir else cache_folder("data") / source.file
    return hashlib.sha256(_read(path)).hexdigest() if path.is_file() else source.sha256


def data_file(dataset: Dataset, data_dir: str = "") -> Path:
    """The benchmark's file (JSON lines, gzipped). Raises UsageError or RuntimeFailure where it
    cannot be had.
    """
    source = _SOURCES[dataset]
    data_dir = data_dir or os.environ.get("R2V_DATA_DIR", "")
    if data_dir:
        path = named_path(data_dir, "R2V_DATA_DIR") / source.file
        if not os.path.isfile(path):
            raise UsageError(
                f"R2V_DATA_DIR = {data_dir}: {source.file} is not there; correct the directory, "
                f"or unset it to download"
            )
        return path
    path = cache_folder("data") / source.file
    if not path.is_file():
        _download(source, path)
    return path


def _download(source: _Source, path: Path) -> None:
    import httpx

    make_cache(path.parent, CACHE_VARIABLE)
    try:
        answer = httpx.get(source.url, follow_redirects=True, timeout=60.0)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise RuntimeFailure(
            f"{source.url} cannot be had ({type(error).__name__}: {error}); put {source.file} "
            f"into a directory and set R2V_DATA_DIR to it"
        ) from None
    if hashlib.sha256(answer.content).hexdigest() != source.sha256:
        raise RuntimeFailure(
            f"{source.url} is not the file this version was tested with (sha256 differs); set "
            f"R2V_DATA_DIR to a good copy"
        )
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(answer.content)
    partial.replace(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def _index(data: bytes, name: str, dataset: Dataset) -> dict[str, str]:
    """The lines of JSON lines by task id. Raises UsageError with file, line and what is wrong
    there.
    """
    rows: dict[str, str] = {}
    lines: dict[str, int] = {}
    # A line ends at a line feed and nowhere else: JSON strings may hold every other separator.
    for number, line in enumerate(_text(data, name).split("\n"), start=1):
        if not line.strip():
            continue
        task_id = _task_id(line, f"{name}, line {number}", dataset)
        if task_id in rows:
            raise UsageError(
                f"{name}: task {task_id} is in lines {lines[task_id]} and {number}; remove one"
            )
        rows[task_id] = line
        lines[task_id] = number
    if not rows:
        raise UsageError(f"{name}: no task in it; the file is empty: download it again")
    return rows


def _text(data: bytes, name: str) -> str:
    """What a file says that is JSON lines, gzipped or plain."""
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(
                f"{name}: a gzip file that is cut or damaged ({error}); download it again"
            ) from None
    begin = data.lstrip()[:40]
    for start, form in _KNOWN_FORMS:
        if begin.startswith(start):
            raise UsageError(f"{name}: {form}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{name}, line {line}: neither gzip nor UTF-8 text; download it again, or save it as "
            f"UTF-8"
        ) from None


def _task_id(line: str, place: str, dataset: Dataset) -> str:
    """The id of a line that has everything a task needs."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = str(error).split(";")[0]
        raise UsageError(
            f"{place}: not JSON that can be read ({reason}); is the file cut? Download it again"
        ) from None
    if not isinstance(row, dict):
        raise UsageError(f"{place}: no JSON object; write one object a line")
    for field, kind in _FIELDS.items():
        if field not in row:
            raise UsageError(
                f"{place}: no field {field}; EvalPlus's files have {', '.join(_FIELDS)}"
            )
        if not isinstance(row[field], kind) or isinstance(row[field], bool):
            raise UsageError(
                f"{place}: {field} is {json.dumps(row[field])[:60]}; see EvalPlus's files for "
                f"what it is to be"
            )
    for field in ("base_input", "plus_input"):
        # MBPP+ writes {} where a task has no further calls.
        if row[field] != {} and not (
            isinstance(row[field], list) and all(isinstance(call, list) for call in row[field])
        ):
            raise UsageError(
                f"{place}: {field} is to be a list of lists, the arguments of every call"
            )
    if not _IDS[dataset].fullmatch(row["task_id"]):
        raise UsageError(
            f"{place}: task_id {row['task_id']!r} is none of {dataset}; its ids look like "
            f"{_IDS[dataset].pattern}"
        )
    return str(row["task_id"])
