"""Branch values as Arrow: one row per (state, candidate), v(x, a) = successes / n (docs/method.md,
section 3).

A row is complete in itself: it holds the conversation so far, so that a learner needs no other
file. Rows of one state share `key`; states with an equal `state_hash` are the same hidden state,
seen under different perturbations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from r2v_dist.chat import Turn
from r2v_dist.messages import text_of
from r2v_dist.storage import arrow_file as table_file

SCHEMA_VERSION = "1"
Source = Literal["slm", "teacher"]
_NAME = pa.dictionary(pa.int32(), pa.string())
_IDS = pa.list_(pa.int32())
TURNS = pa.list_(
    pa.struct(
        [
            ("user", pa.string()),
            ("action", pa.string()),
            ("actor", pa.string()),
            ("action_ids", _IDS),
        ]
    )
)
"""A conversation, oldest turn first; `action_ids` are null where the actor gave text only."""

SCHEMA = pa.schema(
    [
        ("key", _NAME),
        ("task", _NAME),
        ("split", _NAME),
        ("z", pa.int32()),
        ("prefix", pa.int64()),
        ("t", pa.int16()),
        ("history", TURNS),
        ("user", _NAME),
        ("candidate", _NAME),
        ("candidate_ids", _IDS),
        ("candidate_index", pa.int16()),
        ("source", _NAME),
        ("n", pa.int16()),
        ("successes", pa.int16()),
        ("state_hash", pa.int64()),
        ("policy", _NAME),
    ],
    metadata={"r2v_branch_values_version": SCHEMA_VERSION},
)


@dataclass(frozen=True)
class BranchValue:
    """One candidate in one state. `z` is None in the clean environment; `candidate_ids` is None
    where the source gave text only.
    """

    key: str
    task: str
    split: str
    z: int | None
    prefix: int
    t: int
    history: tuple[Turn, ...]
    user: str
    candidate: str
    candidate_ids: tuple[int, ...] | None
    candidate_index: int
    source: Source
    n: int
    successes: int
    state_hash: int
    policy: str

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.n or self.n < 1:
            raise ValueError(f"{self.key}: {self.successes} successes of {self.n} branches")
        if self.source not in get_args(Source):
            raise ValueError(f"{self.key}: source {self.source!r} is neither slm nor teacher")

    @property
    def value(self) -> float:
        """v(x, a) in [0, 1]."""
        return self.successes / self.n

    @property
    def turn(self) -> Turn:
        """The candidate as the answer to the latest message."""
        return Turn(self.user, self.candidate, self.source, self.candidate_ids)


def to_table(rows: Sequence[BranchValue]) -> pa.Table:
    """Rows as one columnar table, in their order."""
    columns: list[pa.Array] = []
    for field in SCHEMA:
        if field.name == "history":
            values: list[Any] = [turn_rows(row.history) for row in rows]
        else:
            values = [getattr(row, field.name) for row in rows]
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def rows_of(table: pa.Table) -> Iterator[BranchValue]:
    """The rows of a table, in its order."""
    for batch in table.to_batches():
        for row in batch.to_pylist():
            history = tuple(read_turns(row.pop("history")))
            ids = row.pop("candidate_ids")
            candidate_ids = None if ids is None else tuple(ids)
            yield BranchValue(history=history, candidate_ids=candidate_ids, **row)


def states_of(table: pa.Table) -> list[list[BranchValue]]:
    """Rows grouped by state, states by key and candidates by index: the order does not depend on
    which branch ended first.
    """
    groups: dict[str, list[BranchValue]] = {}
    for row in rows_of(table):
        groups.setdefault(row.key, []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: (row.candidate_index, row.source))
    return [groups[key] for key in sorted(groups)]


def values(table: pa.Table) -> npt.NDArray[np.float64]:
    """v(x, a) of every row."""
    successes = np.asarray(table["successes"].to_numpy(), np.float64)
    n = table["n"].to_numpy()
    return np.asarray(successes / n, np.float64)


def save(path: Path, table: pa.Table) -> None:
    """Publish branch values as a file."""
    table_file.save(path, table, SCHEMA)


def load(path: Path) -> pa.Table:
    """Read branch values. Raises UsageError when the file is of another kind or version."""
    return table_file.load(path, SCHEMA, "branch values")


def read_turns(rows: Sequence[dict[str, Any]]) -> Iterator[Turn]:
    """A stored conversation as turns."""
    for row in rows:
        ids = row["action_ids"]
        action_ids = None if ids is None else tuple(ids)
        yield Turn(row["user"], row["action"], row["actor"], action_ids)


def turn_rows(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """A conversation as values of TURNS."""
    return [
        {
            "user": text_of(turn.user),
            "action": turn.action,
            "actor": turn.actor,
            "action_ids": turn.action_ids,
        }
        for turn in turns
    ]
