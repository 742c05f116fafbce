"""The request log: one row an answer, in Arrow files that grow.

Invariant: a row is on disk within `FLUSH_S` of its answer's last byte, and rows are never changed;
a process that is killed loses at most the rows of that time, and what it wrote stays readable.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc

from r2v_dist.errors import warn
from r2v_dist.language_model import Answer
from r2v_dist.router.features import FEATURE_VERSION
from r2v_dist.serving.begun import Begun
from r2v_dist.serving.costs import cost_of
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.propensity import randomisation

FLUSH_S = 0.5
_MOST_ROWS = 256
_IDS = pa.list_(pa.int32())
_LOGPROBS = pa.list_(pa.float32())
_DESIGN = pa.list_(
    pa.struct([("threshold", pa.float64()), ("probability", pa.float64()), ("own", pa.bool_())])
)
SCHEMA = pa.schema(
    [
        ("time", pa.float64()),
        ("id", pa.string()),
        ("kind", pa.string()),
        ("conversation", pa.binary(16)),
        ("previous", pa.binary()),
        ("state", pa.binary()),
        ("session", pa.string()),
        ("caller", pa.string()),
        ("t", pa.int32()),
        ("status", pa.string()),
        ("actor", pa.string()),
        ("reason", pa.string()),
        ("would", pa.string()),
        ("operating_point", pa.string()),
        ("router", pa.string()),
        ("threshold", pa.float64()),
        ("score", pa.float64()),
        ("risk", pa.float64()),
        ("exact", pa.bool_()),
        ("uncalibrated", pa.list_(pa.string())),
        ("max_steps", pa.int32()),
        ("goal", pa.string()),
        ("observation", pa.string()),
        ("action", pa.string()),
        ("action_ids", _IDS),
        ("policy", pa.string()),
        ("teacher", pa.string()),
        ("verifier_scores", _LOGPROBS),
        ("chosen_index", pa.int16()),
        ("prompt_tokens", pa.int32()),
        ("generated", pa.int32()),
        ("first_top_ids", _IDS),
        ("first_top_logprobs", _LOGPROBS),
        ("candidate_texts", pa.list_(pa.string())),
        ("candidate_ids", pa.list_(_IDS)),
        ("candidate_logprobs", pa.list_(_LOGPROBS)),
        ("usage_prompt", pa.int32()),
        ("usage_completion", pa.int32()),
        ("cost_slm", pa.float64()),
        ("cost_teacher", pa.float64()),
        ("cost_always_teacher", pa.float64()),
        ("success", pa.bool_()),
        ("comment", pa.string()),
        ("drawn_by", pa.string()),
        ("router_version", pa.string()),
        ("design", _DESIGN),
        ("propensity", pa.float64()),
        ("features", pa.list_(pa.float64())),
        ("hysteresis", pa.string()),
    ],
    metadata={"r2v_log_version": "3", "r2v_feature_version": FEATURE_VERSION},
)
"""`kind` is `answer` or `feedback`. The rows of a conversation are a tree: `previous` is the
`state` of the answer before. `would` is who would have acted where the router was only watched
(`serve.shadow`). A row of feedback has `state`, `success` and `comment`. `threshold` was drawn from
`design` by the name `drawn_by`; `own` says whether a threshold of it is the operating point's, not
an explored one. `propensity` is the probability that the side which acted would, given the steps
before; null where something else decided. `features` are those that the router read. `hysteresis`
is that of the policy (`propensity.held_by`)."""


class RequestLog:
    """Appends to a file of its own in a folder."""

    def __init__(self, folder: Path, gateway: Gateway) -> None:
        self._gateway = gateway
        self._rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.time_ns()}-{os.getpid()}.arrows"
        self.path = path
        self._file = path.open("xb")
        self._writer = ipc.new_stream(self._file, SCHEMA)
        self._file.flush()

    def answered(self, begun: Begun) -> None:
        """Take an answer in; a listener of the gateway. Dry runs leave no row."""
        if not begun.dry:
            self.append(_row(begun, self._gateway))

    def append(self, row: dict[str, Any]) -> None:
        """Take a row in."""
        self._rows.append(row)
        if len(self._rows) >= _MOST_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what has come."""
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        try:
            for batch in self._batches_of(rows):
                self._writer.write_batch(batch)
            self._file.flush()
        except OSError as error:  # answers go on without their log, and say so
            warn(f"{self.path}: {len(rows)} rows of the request log are lost: {error}")

    def _batches_of(self, rows: list[dict[str, Any]]) -> list[pa.RecordBatch]:
        """One batch, or one a row where a row does not fit, without that row."""
        try:
            return [pa.RecordBatch.from_pylist(rows, SCHEMA)]
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
            if len(rows) == 1:
                warn(f"{self.path}: a row does not fit the request log: {error}")
                return []
        return [batch for row in rows for batch in self._batches_of([row])]

    async def keep_flushing(self) -> None:
        """Write every `FLUSH_S`, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            self.flush()

    def close(self) -> None:
        """Write the rest and end the file."""
        self.flush()
        self._writer.close()
        self._file.close()


@contextlib.asynccontextmanager
async def flushing(log: RequestLog | None) -> AsyncIterator[None]:
    """A log is written while the block runs."""
    task = asyncio.ensure_future(log.keep_flushing()) if log is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


def read_log(folder: Path) -> pa.Table:
    """All rows of a folder, the oldest first. What a killed process left half written is left
    out; columns that an earlier version did not write are null, and so are features of another
    version of the features."""
    batches = [batch for path in sorted(folder.glob("*.arrows")) for batch in batches_of(path)]
    return pa.Table.from_batches(map(_as_now, batches), SCHEMA).sort_by("time")


def batches_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The batches of a file up to where it was cut off, with those of these columns that
    it has (None for all)."""
    try:
        with pa.memory_map(str(path)) as file:
            indices = None
            if columns is not None:
                schema = ipc.open_stream(file).schema
                indices = [schema.get_field_index(name) for name in columns if name in schema.names]
                file.seek(0)
            options = ipc.IpcReadOptions(included_fields=indices)
            reader = ipc.open_stream(file, options=options)
            while True:
                yield reader.read_next_batch()
    except (pa.ArrowInvalid, StopIteration, OSError, EOFError):
        return


def _as_now(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of any version with the columns of this one."""
    arrays = {name: batch[name] for name in batch.schema.names}
    metadata = batch.schema.metadata or {}
    if metadata.get(b"r2v_feature_version") != FEATURE_VERSION.encode():
        arrays.pop("features", None)
    columns = [
        arrays[field.name] if field.name in arrays else pa.nulls(batch.num_rows, field.type)
        for field in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _row(begun: Begun, gateway: Gateway) -> dict[str, Any]:
    decision = begun.outcome.decision
    context = begun.context
    cost = cost_of(begun, gateway.config.prices)
    row = {
        "time": time.time(),
        "id": begun.id,
        "kind": "answer",
        "conversation": begun.conversation.root,
        "previous": begun.conversation.previous,
        "state": begun.state,
        "session": begun.session,
        "caller": begun.caller.name,
        "t": context.t,
        "status": begun.status,
        "actor": begun.route,
        "reason": begun.outcome.reason,
        "would": begun.outcome.would,
        "operating_point": begun.point.name,
        "router": gateway.policy.router,
        "threshold": begun.threshold,
        "score": decision.score,
        "risk": begun.risk,
        "exact": begun.conversation.exact,
        "uncalibrated": list(begun.uncalibrated),
        "max_steps": context.max_steps,
        "goal": context.goal,
        "observation": context.observations[-1],
        "action": begun.action.action if begun.action else "",
        "action_ids": begun.action.action_ids if begun.action else None,
        "policy": gateway.slm.version,
        "teacher": gateway.teacher.version,
        "verifier_scores": list(decision.verifier_scores),
        "chosen_index": decision.chosen_index,
        "usage_prompt": begun.usage.get("prompt_tokens"),
        "usage_completion": begun.usage.get("completion_tokens"),
        "cost_slm": cost.slm,
        "cost_teacher": cost.teacher,
        "cost_always_teacher": cost.always_teacher,
    }
    return row | _proposal(begun.step.proposal) | randomisation(begun, gateway.policy)


def _proposal(proposal: Answer | None) -> dict[str, Any]:
    if proposal is None:
        return {}
    candidates = proposal.candidates
    return {
        "prompt_tokens": proposal.prompt_tokens,
        "generated": proposal.sampled_tokens,
        "first_top_ids": list(proposal.first_top.ids),
        "first_top_logprobs": list(proposal.first_top.logprobs),
        "candidate_texts": [c.text for c in candidates],
        "candidate_ids": [list(c.token_ids or ()) for c in candidates],
        "candidate_logprobs": [list(c.logprobs) for c in candidates],
    }
