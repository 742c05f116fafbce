"""What a gateway takes up of the answers that earlier ones logged. Invariants: what is read is
bounded by what is remembered, however long the log has grown (files are read from the latest back,
and of them only the columns that make a state); and token ids of one SLM, or scores of one router,
are never taken for another's.
"""

import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.serving.budget import conversation_limit
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.log import SCHEMA, batches_of
from r2v_dist.serving.state import Answered
from r2v_dist.serving.watch import Judgeable, Watch

_COLUMNS = (
    *("time", "kind", "status", "state", "actor", "action_ids", "verifier_scores", "score"),
    *("prompt_tokens", "id", "caller", "session", "conversation", "policy", "router_version"),
)


def take_up(folder: Path, gateway: Gateway, watch: Watch) -> None:
    """Of the latest answers in a log, as many as a gateway remembers, the oldest first: that
    feedback may be about them, the teacher calls of named conversations, and the states. Answers
    beside another SLM have none: to this one they are text of somebody unknown."""
    for row in _latest(folder, gateway.config.state_entries).to_pylist():
        if row["actor"] == "teacher" and row["session"]:
            gateway.budgets.restore(conversation_limit(row["caller"], row["session"]))
        if row["status"] != "served" or not row["state"]:
            continue
        watch.restore(row["id"], Judgeable(row["caller"], row["state"], row["conversation"]))
        if row["policy"] == gateway.slm.version:
            gateway.state.restore([(row["state"], _answered(row, gateway.policy.version))])


def _answered(row: Mapping[str, Any], router_version: str) -> Answered:
    """The state of a row; the score of another version of the router is not known."""
    ids = None if row["action_ids"] is None else array("i", row["action_ids"])
    best = max(row["verifier_scores"] or [math.nan])
    score = row["score"] if row["router_version"] == router_version else None
    return Answered(row["actor"], ids, best, score, row["prompt_tokens"] or 0, row["time"])


def _latest(folder: Path, most: int) -> pa.Table:
    tables: list[pa.Table] = []
    count = 0
    for path in sorted(folder.glob("*.arrows"), reverse=True):
        if count >= most:
            break
        batches = list(batches_of(path, _COLUMNS))
        if batches:
            table = pa.Table.from_batches(batches)
            tables.append(table.filter(pc.equal(table["kind"], "answer")))
            count += tables[-1].num_rows
    empty = pa.table({name: SCHEMA.empty_table()[name] for name in _COLUMNS})
    answers = pa.concat_tables([empty, *tables], promote_options="default").sort_by("time")
    return answers.slice(max(0, answers.num_rows - most))
