"""Rollouts as Arrow: one row a step, one shard one atomic step, a shard's number taken once.

A shard holds whole episodes only, so that an episode is committed with all its steps or not at all.
Shards are Arrow IPC files with lz4, readable with nothing but pyarrow, pandas, polars or duckdb;
token ids are stored as sampled.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.episodes import Episode, Step
from r2v_dist.errors import DamagedFile, UsageError
from r2v_dist.language_model import TopTokens
from r2v_dist.storage import arrow_file as table_file
from r2v_dist.verifier.base import preferred

SCHEMA_VERSION = "3"
_BEFORE_CHOSEN_INDEX = "2"
"""Shards of this version are read too: their `chosen_index` is computed."""
_NAME = pa.dictionary(pa.int32(), pa.string())
_IDS = pa.list_(pa.int32())
_LOGPROBS = pa.list_(pa.float32())

_EPISODE_COLUMNS: dict[str, tuple[pa.DataType, Callable[[Episode], Any]]] = {
    "key": (_NAME, lambda e: str(e.key)),
    "stage": (_NAME, lambda e: e.key.stage),
    "task": (_NAME, lambda e: e.key.task),
    "split": (_NAME, lambda e: e.split),
    "z": (pa.int32(), lambda e: e.key.z),
    "replica": (pa.int16(), lambda e: e.key.replica),
    "arm": (_NAME, lambda e: e.arm.id),
    "router": (_NAME, lambda e: e.arm.router),
    "threshold": (pa.float64(), lambda e: e.arm.threshold),
    "policy": (_NAME, lambda e: e.arm.policy),
    "teacher": (_NAME, lambda e: e.arm.teacher),
    "verifier": (_NAME, lambda e: e.arm.verifier),
    "training_seed": (pa.int16(), lambda e: e.arm.training_seed),
    "goal": (_NAME, lambda e: e.goal),
    "success": (pa.bool_(), lambda e: e.success),
    "stop_reason": (_NAME, lambda e: e.stop_reason.value),
    "detail": (_NAME, lambda e: e.detail),
    "final_observation": (_NAME, lambda e: e.final_observation),
    "n_steps": (pa.int16(), lambda e: len(e.steps)),
    "branch": (_NAME, lambda e: e.branch.kind if e.branch else None),
    "branch_t": (pa.int16(), lambda e: len(e.branch.path) if e.branch else None),
    "branch_prefix": (pa.int64(), lambda e: e.branch.prefix if e.branch else None),
}
"""Equal on all rows of an episode. An episode that ended before its first step has one row with `t`
= -1. A branch (null elsewhere) leaves its earlier path at step `branch_t`, whose `prefix` is
`branch_prefix`; the steps before are replayed and have no proposal. It has no row at `branch_t`
where nobody had an action there.
"""

_STEP_COLUMNS: dict[str, pa.DataType] = {
    "observation": _NAME,
    "clean_observation": _NAME,
    "perturbations": pa.list_(pa.string()),
    "actor": _NAME,
    "action": _NAME,
    "action_ids": _IDS,
    "executed": pa.bool_(),
    "score": pa.float64(),
    "prefix": pa.int64(),
    "drift": pa.bool_(),
    "teacher_tokens": pa.int32(),
    "verifier_scores": _LOGPROBS,
    "chosen_index": pa.int16(),
}
"""Attributes of a step, stored as they are."""

_NO_STEP: Any = SimpleNamespace(**dict.fromkeys([*_STEP_COLUMNS, "proposal"]))
"""The step of an episode that ended before its first."""

_NO_TOP = TopTokens.of(())

SCHEMA = pa.schema(
    [
        *((name, kind) for name, (kind, _) in _EPISODE_COLUMNS.items()),
        ("t", pa.int16()),
        *_STEP_COLUMNS.items(),
        ("prompt_tokens", pa.int32()),
        ("slm_tokens", pa.int32()),
        ("first_top_ids", _IDS),
        ("first_top_logprobs", _LOGPROBS),
        ("candidate_texts", pa.list_(pa.string())),
        ("candidate_ids", pa.list_(_IDS)),
        ("candidate_logprobs", pa.list_(_LOGPROBS)),
    ],
    metadata={"r2v_schema_version": SCHEMA_VERSION},
)


def to_table(episodes: Sequence[Episode]) -> pa.Table:
    """Episodes as one columnar table, steps in order."""
    lengths = [max(1, len(e.steps)) for e in episodes]
    repeat = pa.array(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths))
    own = pa.RecordBatch.from_arrays(
        [pa.array(list(map(get, episodes)), kind) for kind, get in _EPISODE_COLUMNS.values()],
        [*_EPISODE_COLUMNS],
    )
    t = np.fromiter(
        (t for e in episodes for t in (range(len(e.steps)) if e.steps else (-1,))), np.int16
    )
    steps: list[Step] = [s for e in episodes for s in (e.steps or (_NO_STEP,))]
    of_steps = [
        pa.array(list(map(attrgetter(name), steps)), kind) for name, kind in _STEP_COLUMNS.items()
    ]
    return pa.Table.from_arrays(
        [*own.take(repeat).columns, pa.array(t), *of_steps, *_proposal_columns(steps)],
        schema=SCHEMA,
    )


def _proposal_columns(steps: Sequence[Step]) -> list[pa.Array]:
    proposals = [s.proposal for s in steps]
    tops = [answer.first_top if answer else _NO_TOP for answer in proposals]
    candidates = [answer.candidates if answer else () for answer in proposals]
    flat = list(chain.from_iterable(candidates))
    top_offsets = _offsets(tops)
    offsets = _offsets(candidates)
    logprobs = _lists([c.logprobs for c in flat], np.float32)
    slm_tokens = np.diff(logprobs.offsets.to_numpy()[offsets.to_numpy()])
    return [
        pa.array([answer.prompt_tokens if answer else None for answer in proposals], pa.int32()),
        pa.array(slm_tokens, pa.int32(), mask=np.fromiter((s is _NO_STEP for s in steps), bool)),
        pa.ListArray.from_arrays(top_offsets, _packed([top.ids for top in tops], pa.int32())),
        pa.ListArray.from_arrays(
            top_offsets, _packed([top.logprobs for top in tops], pa.float32())
        ),
        pa.ListArray.from_arrays(offsets, pa.array([c.text for c in flat], pa.string())),
        pa.ListArray.from_arrays(offsets, _lists([c.token_ids or () for c in flat], np.int32)),
        pa.ListArray.from_arrays(offsets, logprobs),
    ]


def _packed(arrays: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values of many packed arrays as one column, without touching them one by one."""
    buffer = pa.py_buffer(b"".join(arrays))
    return pa.Array.from_buffers(kind, buffer.size * 8 // kind.bit_width, [None, buffer])


def _offsets(groups: Sequence[Sized]) -> pa.Array:
    return pa.array(np.fromiter(accumulate(map(len, groups), initial=0), np.int32))


def _lists(groups: Sequence[Sequence[Any]], kind: type[np.number[Any]]) -> pa.ListArray:
    return pa.ListArray.from_arrays(
        _offsets(groups), pa.array(np.fromiter(chain.from_iterable(groups), kind))
    )


def commit(folder: Path, index: int, episodes: Sequence[Episode]) -> Path:
    """Publish one shard; afterwards its keys are committed for good.

    Raises FileExistsError where the folder has a shard of that number: nothing is ever overwritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{index:06d}.arrow"
    table_file.save_new(target, to_table(episodes))
    return target


def shards(folder: Path) -> list[Path]:
    """The committed shards of a stage, in order of commit."""
    return sorted(folder.glob("*.arrow"))


def next_index(paths: Sequence[Path]) -> int:
    """The number after the highest of some shards. How many there are says nothing: one may have
    been set aside, or deleted."""
    return max((int(path.stem) + 1 for path in paths if path.stem.isdigit()), default=0)


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of one shard.

    Raises DamagedFile where it cannot be read, UsageError where another version wrote it.
    """
    wanted = columns or SCHEMA.names
    # What an older shard lacks cannot be asked for.
    stored = [name for name in wanted if name != "chosen_index"] or ["key"]
    table = table_file.read(path, None if columns is None else stored)
    version = (table.schema.metadata or {}).get(b"r2v_schema_version", b"none").decode()
    if version not in (SCHEMA_VERSION, _BEFORE_CHOSEN_INDEX):
        raise UsageError(
            f"{path}: r2v_schema_version = {version}, this program reads {SCHEMA_VERSION}; read it "
            "with the version of r2v that wrote it, or choose another run_dir"
        )
    if "chosen_index" in wanted and "chosen_index" not in table.column_names:
        indices = _chosen_indices(path, version)
        table = table.append_column(SCHEMA.field("chosen_index"), indices)
    return table.select(wanted).replace_schema_metadata(SCHEMA.metadata)


def _chosen_indices(path: Path, version: str) -> pa.Array | pa.ChunkedArray:
    """The column `chosen_index` of a shard: as stored, or as it would have been stored."""
    if version == SCHEMA_VERSION:
        return table_file.read(path, ["chosen_index"])["chosen_index"]
    indices: list[int | None] = []
    for row in table_file.read(path, ["candidate_texts", "verifier_scores"]).to_pylist():
        texts = row["candidate_texts"]
        indices.append(preferred(texts, row["verifier_scores"]) if texts else None)
    return pa.array(indices, SCHEMA.field("chosen_index").type)


def read(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """All committed rows of a stage; an empty table when there are none."""
    return read_all(shards(folder), columns)


def read_all(paths: Sequence[Path], columns: list[str] | None = None) -> pa.Table:
    """All rows of some shards."""
    tables = [read_shard(path, columns) for path in paths]
    if not tables:
        return SCHEMA.empty_table().select(columns or SCHEMA.names)
    return pa.concat_tables(tables).unify_dictionaries()


def keys_of(paths: Sequence[Path]) -> set[str]:
    """Keys of the episodes in some shards."""
    return set(pc.unique(read_all(paths, ["key"])["key"]).to_pylist())


def verify(folder: Path, stage: str, input_hash: str) -> None:
    """Raises DamagedFile for the first shard that cannot be read, or that holds episodes of
    another stage or of other inputs: a shard that somebody copied here.
    """
    own = f"{stage}|{input_hash}|"
    for path in shards(folder):
        foreign = [key for key in keys_of([path]) if not key.startswith(own)]
        if foreign:
            raise DamagedFile(path, f"holds episodes that are not of this stage ({foreign[0]})")


def committed_keys(folder: Path) -> set[str]:
    """Keys of the episodes that must not be run again."""
    return keys_of(shards(folder))


def outcomes(table: pa.Table) -> pa.Table:
    """One row an episode: its first step's row (episode columns are equal on all of them)."""
    return table.filter(pc.less_equal(table["t"], 0))


def episodes_of(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Episodes as lists of step rows, sorted by key: the order does not depend on the order of
    commits.
    """
    plain = table.set_column(0, "key", table["key"].cast(pa.string())).sort_by(
        [("key", "ascending"), ("t", "ascending")]
    )
    rows: Iterable[dict[str, Any]] = (
        row for batch in plain.to_batches() for row in batch.to_pylist()
    )
    current: list[dict[str, Any]] = []
    for row in rows:
        if current and row["key"] != current[0]["key"]:
            yield current
            current = []
        current.append(row)
    if current:
        yield current


def codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], list[str]]:
    """A dictionary column as numbers, and what they stand for. Columns of one table share their
    numbers after any filter.
    """
    chunk = column.combine_chunks()
    chunk = chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk
    return np.asarray(chunk.indices.fill_null(-1), dtype=np.int64), chunk.dictionary.to_pylist()


def rows_where(
    folder: Path, condition: Callable[[pa.Table], Any], columns: list[str] | None
) -> pa.Table:
    """Rows of a stage that meet a condition, read shard by shard: a stage's candidates together may
    not fit in memory.
    """
    tables = (read_shard(path, columns) for path in shards(folder))
    parts = [table.filter(condition(table)) for table in tables]
    return pa.concat_tables(
        [part for part in parts if part.num_rows] or parts[:1]
    ).unify_dictionaries()
