"""What a gateway takes up of the answers that earlier ones logged. Invariant: what is read is bounded
by what is remembered, however long the log has grown: files are read from the latest back, and of
them only the columns that make a state.
"""

import math
from array import array
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.log import batches_of
from r2v_dist.serving.state import Answered
from r2v_dist.serving.watch import Judgeable, Watch

_COLUMNS = (
    *("time", "kind", "status", "state", "actor", "action_ids", "verifier_scores", "score"),
    *("prompt_tokens", "id", "caller", "conversation"),
)


def take_up(folder: Path, gateway: Gateway, watch: Watch) -> None:
    """Of the latest answers in a log, as many as a gateway remembers, the oldest first: their
    states, and that feedback may be about them."""
    for row in _latest(folder, gateway.config.state_entries).to_pylist():
        ids = None if row["action_ids"] is None else array("i", row["action_ids"])
        best = max(row["verifier_scores"] or [math.nan])
        read = row["prompt_tokens"] or 0
        answered = Answered(row["actor"], ids, best, row["score"], read, row["time"])
        gateway.state.restore([(row["state"], answered)])
        watch.restore(row["id"], Judgeable(row["caller"], row["state"], row["conversation"]))


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
