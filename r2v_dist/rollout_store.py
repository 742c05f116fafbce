"""Rollouts as Arrow: one row a step, one shard one atomic rename, one writer a stage.

A shard holds whole episodes only, so that an episode is committed with all its steps or not at all. Shards are Arrow IPC
files with zstd, readable with nothing but pyarrow, pandas, polars or duckdb; token ids are stored as sampled.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.ipc as ipc

from r2v_dist.episodes import Episode, Step

SCHEMA_VERSION = "1"
_NAME = pa.dictionary(pa.int32(), pa.string())
_IDS, _LOGPROBS = pa.list_(pa.int32()), pa.list_(pa.float32())

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
    "training_seed": (pa.int16(), lambda e: e.arm.training_seed),
    "goal": (_NAME, lambda e: e.goal),
    "success": (pa.bool_(), lambda e: e.success),
    "stop_reason": (_NAME, lambda e: e.stop_reason.value),
    "detail": (_NAME, lambda e: e.detail),
    "final_observation": (_NAME, lambda e: e.final_observation),
    "n_steps": (pa.int16(), lambda e: len(e.steps)),
}
"""Equal on all rows of an episode. An episode that ended before its first step has one row with `t` = -1."""

_STEP_COLUMNS: dict[str, tuple[pa.DataType, Callable[[Step], Any]]] = {
    "observation": (_NAME, lambda s: s.observation),
    "clean_observation": (_NAME, lambda s: s.clean_observation),
    "perturbations": (pa.list_(pa.string()), lambda s: s.perturbations),
    "actor": (_NAME, lambda s: s.actor),
    "action": (_NAME, lambda s: s.action),
    "action_ids": (_IDS, lambda s: s.action_ids),
    "executed": (pa.bool_(), lambda s: s.executed),
    "score": (pa.float64(), lambda s: s.score),
    "prefix": (pa.int64(), lambda s: s.prefix),
    "drift": (pa.bool_(), lambda s: s.drift),
    "teacher_tokens": (pa.int32(), lambda s: s.teacher_tokens),
    "prompt_tokens": (pa.int32(), lambda s: s.proposal.prompt_tokens if s.proposal else None),
    "slm_tokens": (pa.int32(), lambda s: s.proposal.sampled_tokens if s.proposal else 0),
}

SCHEMA = pa.schema(
    [
        *((name, kind) for name, (kind, _) in _EPISODE_COLUMNS.items()),
        ("t", pa.int16()),
        *((name, kind) for name, (kind, _) in _STEP_COLUMNS.items()),
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
    repeat = pa.array([i for i, n in enumerate(lengths) for _ in range(n)], pa.int32())
    columns: list[pa.Array] = [pa.array([get(e) for e in episodes], kind).take(repeat) for kind, get in _EPISODE_COLUMNS.values()]
    columns.append(pa.array([t for e in episodes for t in (range(len(e.steps)) if e.steps else (-1,))], pa.int16()))
    steps: list[Step | None] = [s for e in episodes for s in (e.steps or (None,))]
    columns += [pa.array([None if s is None else get(s) for s in steps], kind) for kind, get in _STEP_COLUMNS.values()]
    return pa.Table.from_arrays([*columns, *_proposal_columns(steps)], schema=SCHEMA)


def _proposal_columns(steps: Sequence[Step | None]) -> list[pa.Array]:
    proposals = [s.proposal if s is not None else None for s in steps]
    top_offsets, top_ids, top_logprobs = [0], list[int](), list[float]()
    for answer in proposals:
        for token, logprob in answer.first_top if answer else ():
            top_ids.append(token)
            top_logprobs.append(logprob)
        top_offsets.append(len(top_ids))
    candidates = [answer.candidates if answer else () for answer in proposals]
    flat = [c for group in candidates for c in group]
    offsets = _offsets(candidates)
    return [
        pa.ListArray.from_arrays(top_offsets, pa.array(top_ids, pa.int32())),
        pa.ListArray.from_arrays(top_offsets, pa.array(top_logprobs, pa.float32())),
        pa.ListArray.from_arrays(offsets, pa.array([c.text for c in flat], pa.string())),
        pa.ListArray.from_arrays(offsets, _lists([c.token_ids or () for c in flat], pa.int32())),
        pa.ListArray.from_arrays(offsets, _lists([c.logprobs for c in flat], pa.float32())),
    ]


def _offsets(groups: Sequence[Sequence[Any]]) -> pa.Array:
    offsets = [0]
    for group in groups:
        offsets.append(offsets[-1] + len(group))
    return pa.array(offsets, pa.int32())


def _lists(groups: Sequence[Sequence[Any]], kind: pa.DataType) -> pa.ListArray:
    return pa.ListArray.from_arrays(_offsets(groups), pa.array([x for group in groups for x in group], kind))


def commit(folder: Path, index: int, episodes: Sequence[Episode]) -> Path:
    """Write one shard and publish it by renaming; afterwards its keys are committed for good."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{index:06d}.arrow"
    scratch = target.with_suffix(".tmp")
    with pa.OSFile(str(scratch), "wb") as sink, ipc.new_file(sink, SCHEMA, options=_OPTIONS) as writer:
        writer.write_table(to_table(episodes))
    scratch.rename(target)
    return target


_OPTIONS = ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1), unify_dictionaries=True)


def shards(folder: Path) -> list[Path]:
    """The committed shards of a stage, in order of commit."""
    return sorted(folder.glob("*.arrow"))


def read(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """All committed rows of a stage, memory-mapped; an empty table when there are none."""
    tables = [feather.read_table(path, columns=columns) for path in shards(folder)]
    if not tables:
        return SCHEMA.empty_table().select(columns or SCHEMA.names)
    return pa.concat_tables(tables).unify_dictionaries()


def committed_keys(folder: Path) -> set[str]:
    """Keys of the episodes that must not be run again."""
    return set(pc.unique(read(folder, ["key"])["key"]).to_pylist())


def outcomes(table: pa.Table) -> pa.Table:
    """One row an episode: its first step's row (episode columns are equal on all of them)."""
    return table.filter(pc.less_equal(table["t"], 0))


def episodes_of(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Episodes as lists of step rows, sorted by key: the order does not depend on the order of commits."""
    plain = table.set_column(0, "key", table["key"].cast(pa.string())).sort_by([("key", "ascending"), ("t", "ascending")])
    rows: Iterable[dict[str, Any]] = (row for batch in plain.to_batches() for row in batch.to_pylist())
    current: list[dict[str, Any]] = []
    for row in rows:
        if current and row["key"] != current[0]["key"]:
            yield current
            current = []
        current.append(row)
    if current:
        yield current
