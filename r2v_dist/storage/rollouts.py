"""Rollouts as shards: files of whole episodes, named by epoch and content, never overwritten.

A shard holds whole episodes only, so that an episode is committed with all its steps or not at all.
No key counts twice: where a writer that was superseded (`r2v_dist.storage.lease`) published a shard
late, readers take the rows of the latest epoch that has the key. Shards are Arrow IPC files with
lz4, readable with nothing but pyarrow, pandas, polars or duckdb.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.episodes import Episode
from r2v_dist.errors import DamagedFile, UsageError
from r2v_dist.object_storage import mirror as mirrors
from r2v_dist.storage import arrow_file as table_file
from r2v_dist.storage.key_set import KeySet
from r2v_dist.storage.step_table import SCHEMA, SCHEMA_VERSION, to_table
from r2v_dist.verifier.base import select_candidate

_BEFORE_CHOSEN_INDEX = "2"
"""Shards of this version are read too: their `chosen_index` is computed."""
_NAME = re.compile(r"e(\d+)-\d+-[0-9a-f]+")


def commit(folder: Path, index: int, episodes: Sequence[Episode], epoch: int = 0) -> Path:
    """Publish one shard; afterwards its keys are committed for good.

    `index` is its place among the shards of its epoch. Epoch 0 is for folders that no lease guards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = table_file.encoded(to_table(episodes))
    content = hashlib.blake2b(data, digest_size=6).hexdigest()
    target = folder / f"e{epoch:06d}-{index:06d}-{content}.arrow"
    # A name that is taken has the same content: the first try succeeded, and its answer was lost.
    with contextlib.suppress(FileExistsError):
        table_file.save_new(target, data)
    return target


def shards(folder: Path) -> list[Path]:
    """The committed shards of a stage, in order of commit."""
    if mirror := mirrors.of(folder):
        mirror.pull(folder)  # the collector may be on another node
    return sorted(folder.glob("*.arrow"))


def epoch_of(path: Path) -> int:
    """The epoch under which a shard was written: 0 for the shards of earlier versions of r2v."""
    name = _NAME.fullmatch(path.stem)
    return int(name[1]) if name else 0


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of one shard.

    Raises DamagedFile where it cannot be read, UsageError where another version wrote it.
    """
    names = columns or SCHEMA.names
    # What an older shard lacks cannot be asked for.
    stored_names = [name for name in names if name != "chosen_index"] or ["key"]
    table = table_file.read(path, None if columns is None else stored_names)
    version = (table.schema.metadata or {}).get(b"r2v_schema_version", b"none").decode()
    if version not in (SCHEMA_VERSION, _BEFORE_CHOSEN_INDEX):
        raise UsageError(
            f"{path}: r2v_schema_version = {version}, this program reads {SCHEMA_VERSION}; read it "
            "with the version of r2v that wrote it, or choose another run_dir"
        )
    if "chosen_index" in names and "chosen_index" not in table.column_names:
        indices = _chosen_indices(path, version)
        table = table.append_column(SCHEMA.field("chosen_index"), indices)
    return table.select(names).replace_schema_metadata(SCHEMA.metadata)


def _chosen_indices(path: Path, version: str) -> pa.Array | pa.ChunkedArray:
    """The column `chosen_index` of a shard: as stored, or as it would have been stored."""
    if version == SCHEMA_VERSION:
        return table_file.read(path, ["chosen_index"])["chosen_index"]
    indices: list[int | None] = []
    for row in table_file.read(path, ["candidate_texts", "verifier_scores"]).to_pylist():
        texts = row["candidate_texts"]
        indices.append(select_candidate(texts, row["verifier_scores"]) if texts else None)
    return pa.array(indices, SCHEMA.field("chosen_index").type)


def read(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """All committed rows of a stage; an empty table when there are none."""
    return read_all(shards(folder), columns)


def read_all(paths: Sequence[Path], columns: list[str] | None = None) -> pa.Table:
    """All rows of some shards of one stage, no key twice."""
    tables = list(_counting(paths, columns))
    if not tables:
        return SCHEMA.empty_table().select(columns or SCHEMA.names)
    return pa.concat_tables(tables).unify_dictionaries()


def _counting(paths: Sequence[Path], columns: list[str] | None) -> Iterator[pa.Table]:
    """Shard by shard, the rows that count: without those whose key a later epoch has too."""
    names = columns or SCHEMA.names
    doubled = _doubled(paths)
    for path in paths:
        if not doubled.get(path):
            yield read_shard(path, columns)
            continue
        table = read_shard(path, list(dict.fromkeys([*names, "key"])))
        late = pc.is_in(table["key"].cast(pa.string()), pa.array(doubled[path], pa.string()))
        yield table.filter(pc.invert(late)).select(names)


def _doubled(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """The keys of each shard that a later epoch committed too; nothing is read where all shards are
    of one epoch."""
    latest_first = sorted(paths, key=epoch_of, reverse=True)
    if not paths or epoch_of(latest_first[0]) == epoch_of(latest_first[-1]):
        return {}
    later_keys = KeySet()
    doubled: dict[Path, list[str]] = {}
    for _, of_epoch in groupby(latest_first, key=epoch_of):
        epoch_keys = KeySet()
        for path in of_epoch:
            keys = keys_of(path)
            doubled[path] = [key for key in keys if key in later_keys]
            epoch_keys.update(keys)
        later_keys.absorb(epoch_keys)
    return doubled


def keys_of(path: Path) -> list[str]:
    """Keys of the episodes in a shard, each once."""
    keys: list[str] = pc.unique(read_shard(path, ["key"])["key"]).to_pylist()
    return keys


def verify(folder: Path, stage: str, input_hash: str) -> None:
    """Raises DamagedFile for the first shard that cannot be read, or that holds episodes of
    another stage or of other inputs: a shard that somebody copied here.
    """
    prefix = f"{stage}|{input_hash}|"
    for path in shards(folder):
        foreign = [key for key in keys_of(path) if not key.startswith(prefix)]
        if foreign:
            raise DamagedFile(path, f"holds episodes that are not of this stage ({foreign[0]})")


def committed_keys(folder: Path) -> KeySet:
    """Keys of the episodes that must not be run again."""
    committed = KeySet()
    for path in shards(folder):
        committed.update(keys_of(path))
    return committed


def outcomes(table: pa.Table) -> pa.Table:
    """One row an episode: its first step's row (episode columns are equal on all of them)."""
    return table.filter(pc.less_equal(table["t"], 0))


def read_outcomes(folder: Path, columns: list[str]) -> pa.Table:
    """As `outcomes` of a whole stage, of which never more than a shard's steps are in memory.
    `t` is among the columns.
    """
    return rows_where(folder, lambda table: pc.less_equal(table["t"], 0), columns)


def episodes_of(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Episodes as lists of step rows, sorted by key: the order does not depend on the order of
    commits.
    """
    plain = table.set_column(0, "key", table["key"].cast(pa.string())).sort_by(
        [("key", "ascending"), ("t", "ascending")]
    )
    batches = (batch.to_pylist() for batch in plain.to_batches())
    current: list[dict[str, Any]] = []
    for row in chain.from_iterable(batches):
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
    tables = _counting(shards(folder), columns)
    parts = [table.filter(condition(table)) for table in tables]
    empty = SCHEMA.empty_table().select(columns or SCHEMA.names)
    return pa.concat_tables(
        [part for part in parts if part.num_rows] or [empty]
    ).unify_dictionaries()
