"""What a gateway takes up of the answers that earlier ones logged. Invariant: what is read is bounded
by what is remembered, however long the log has grown: files are read from the latest back, and of
them only the columns that make a state.
"""

import math
from array import array
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.serving.log import batches_of
from r2v_dist.serving.state import Answered

_COLUMNS = (
    *("time", "kind", "status", "state", "actor", "action_ids", "verifier_scores", "score"),
    "prompt_tokens",
)


def remembered(folder: Path, most: int) -> Iterator[tuple[bytes, Answered]]:
    """The states of the latest `most` answers in a log, the oldest first, as `StateCache.restore`
    takes them."""
    for row in _latest(folder, most).to_pylist():
        ids = None if row["action_ids"] is None else array("i", row["action_ids"])
        best = max(row["verifier_scores"] or [math.nan])
        read = row["prompt_tokens"] or 0
        yield row["state"], Answered(row["actor"], ids, best, row["score"], read, row["time"])


def _latest(folder: Path, most: int) -> pa.Table:
    found: list[pa.Table] = []
    count = 0
    for path in sorted(folder.glob("*.arrows"), reverse=True):
        if count >= most:
            break
        batches = list(batches_of(path, _COLUMNS))
        if batches:
            found.append(_answers(pa.Table.from_batches(batches)))
            count += found[-1].num_rows
    if not found:
        return pa.table({name: [] for name in _COLUMNS})
    whole = pa.concat_tables(found).sort_by("time")
    return whole.slice(max(0, whole.num_rows - most))


def _answers(table: pa.Table) -> pa.Table:
    """The rows of answers that their callers have."""
    served = pc.and_(pc.equal(table["kind"], "answer"), pc.equal(table["status"], "served"))
    return table.filter(pc.and_(served, pc.greater(pc.binary_length(table["state"]), 0)))
