"""Episodes as an Arrow table: one row a step. Token ids are stored as sampled.

The columns of an episode are equal on all of its rows.
"""

from collections.abc import Callable, Sequence, Sized
from itertools import accumulate, chain
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from r2v_dist.episodes import Episode, Step
from r2v_dist.language_model import TopTokens

SCHEMA_VERSION = "3"
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
    episode_rows = pa.RecordBatch.from_arrays(
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
        [*episode_rows.take(repeat).columns, pa.array(t), *of_steps, *_proposal_columns(steps)],
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
