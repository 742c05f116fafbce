"""Preference pairs from branch values (docs/method.md, section 4): Arrow in, Arrow out, and an
account of every state left out.

At most one pair a state: a+ = argmax V over the SLM's candidates and the teacher's action, a- =
argmin V, kept when V(a+) - V(a-) reaches the gap. The second view is the same hidden state met
under another perturbation seed: same task, same action prefix and equal state hash. The result
depends on the rows alone, not on their order.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from r2v_dist.chat import Turn
from r2v_dist.labels import branch_values
from r2v_dist.labels.branch_values import TURNS, BranchValue, Source
from r2v_dist.messages import text_of
from r2v_dist.seeding import rng_for
from r2v_dist.storage import arrow_file as table_file

_NAME = pa.dictionary(pa.int32(), pa.string())
_IDS = pa.list_(pa.int32())
_STATE_COLUMNS = ("key", "task", "split", "z", "prefix", "t", "state_hash", "policy", "user")
_ROUNDING = 1e-9
"""0.5 - 0.4 is a gap of 0.1."""

SCHEMA = pa.schema(
    [
        ("key", _NAME),
        ("task", _NAME),
        ("split", _NAME),
        ("z", pa.int32()),
        ("prefix", pa.int64()),
        ("t", pa.int16()),
        ("state_hash", pa.int64()),
        ("policy", _NAME),
        ("scored_by", _NAME),
        ("history", TURNS),
        ("user", _NAME),
        ("chosen", _NAME),
        ("chosen_ids", _IDS),
        ("chosen_source", _NAME),
        ("chosen_value", pa.float64()),
        ("chosen_n", pa.int32()),
        ("rejected", _NAME),
        ("rejected_ids", _IDS),
        ("rejected_source", _NAME),
        ("rejected_value", pa.float64()),
        ("rejected_n", pa.int32()),
        ("view_key", _NAME),
        ("view_z", pa.int32()),
        ("view_history", TURNS),
        ("view_user", _NAME),
    ],
    metadata={"r2v_pairs_version": "1"},
)
"""`chosen_value` and `rejected_value` are V as given by `scored_by`; the view columns are null
where there is no second view.
"""


@dataclass(frozen=True)
class PairCounts:
    """Every state is kept or counted under one reason; so is every kept pair's second view.

    `clean`: met without perturbation. `one_action`: fewer than two different actions. `small_gap`:
    V does not tell them apart.
    `unseen_elsewhere`: no other seed met this task and prefix. `other_state`: others did, in
    another hidden state.
    `same_text`: others did, but read exactly the same.
    """

    states: int
    pairs: int
    clean: int
    one_action: int
    small_gap: int
    teacher_chosen: int
    with_view: int
    unseen_elsewhere: int
    other_state: int
    same_text: int


@dataclass(frozen=True)
class View:
    """Another conversation that led to the same hidden state."""

    key: str
    z: int | None
    history: tuple[Turn, ...]
    user: str


@dataclass(frozen=True)
class Pair:
    """What a learner needs of a pair: the context, both answers to `user`, and the second view."""

    key: str
    history: tuple[Turn, ...]
    user: str
    chosen: Turn
    rejected: Turn
    view: View | None


@dataclass(frozen=True)
class _Action:
    """A distinct action of a state; candidates with equal text are one action, its value their mean
    over branches.
    """

    row: BranchValue
    value: float
    n: int


@dataclass(frozen=True)
class _Kept:
    """A state's pair, with its second view where it has one."""

    best: _Action
    worst: _Action
    view: View | None


def build_pairs(
    table: pa.Table,
    min_gap: float,
    scores: npt.NDArray[np.float64] | None = None,
    scored_by: str = "branches",
    visited: Sequence[BranchValue] = (),
) -> tuple[pa.Table, PairCounts]:
    """Pairs of a branch-value table.

    Args:
        table: rows of `r2v_dist.labels.branch_values`.
        min_gap: the least V(a+) - V(a-).
        scores: V of every row, in [0, 1]; None takes the branch values themselves.
        scored_by: where V comes from, kept with every pair.
        visited: further states that were met, one row each: second views may be among them.
    """
    scores = branch_values.values(table) if scores is None else scores
    score_of: dict[tuple[str, Source, int], float] = {}
    for row, score in zip(branch_values.rows_of(table), scores, strict=True):
        score_of[row.key, row.source, row.candidate_index] = float(score)
    states = branch_values.states_of(table)
    states_by_place = _by_place([*visited, *(rows[0] for rows in states)])
    counter: Counter[str] = Counter()
    pairs: list[_Kept] = []
    for rows in states:
        pair = _pair(rows, score_of, min_gap)
        if isinstance(pair, str):
            counter[pair] += 1
            continue
        best, worst = pair
        view = _second_view(rows[0], states_by_place[rows[0].task, rows[0].prefix])
        if isinstance(view, View):
            counter["with_view"] += 1
            pairs.append(_Kept(best, worst, view))
        else:
            counter[view] += 1
            pairs.append(_Kept(best, worst, None))
        counter["teacher_chosen"] += best.row.source == "teacher"
    counts = {field.name: counter[field.name] for field in fields(PairCounts)}
    counts |= {"states": len(states), "pairs": len(pairs)}
    return _to_table(pairs, scored_by), PairCounts(**counts)


def _by_place(states: Sequence[BranchValue]) -> dict[tuple[str, int], list[BranchValue]]:
    """Each state once, the states of one task and prefix together, in the order of their keys."""
    places: dict[tuple[str, int], list[BranchValue]] = defaultdict(list)
    for state in {state.key: state for state in states}.values():
        places[state.task, state.prefix].append(state)
    for alike in places.values():
        alike.sort(key=lambda state: state.key)
    return places


def _pair(
    rows: Sequence[BranchValue], score_of: Mapping[tuple[str, Source, int], float], min_gap: float
) -> tuple[_Action, _Action] | str:
    """(a+, a-), or the reason why there is none."""
    if rows[0].z is None:
        return "clean"
    same_text: dict[str, list[BranchValue]] = defaultdict(list)
    for row in rows:
        same_text[row.candidate].append(row)
    actions = []
    for alike in same_text.values():
        n = sum(row.n for row in alike)
        weighted = [score_of[row.key, row.source, row.candidate_index] * row.n for row in alike]
        # The policy's own wording (and token ids) where it has one: what it did sample, it can
        # learn to prefer.
        wording = min(alike, key=lambda row: row.source == "teacher")
        actions.append(_Action(wording, sum(weighted) / n, n))
    if len(actions) < 2:
        return "one_action"
    best = max(actions, key=_rank_of_best)
    worst = min(actions, key=_rank_of_worst)
    if best.value - worst.value < min_gap - _ROUNDING:
        return "small_gap"
    return best, worst


def _rank_of_best(action: _Action) -> tuple[float, bool, int]:
    """Of equal values the SLM's own action is the best, then the first candidate."""
    return (action.value, action.row.source == "slm", -action.row.candidate_index)


def _rank_of_worst(action: _Action) -> tuple[float, bool, int]:
    """Of equal values the SLM's own action is the worst, then the first candidate."""
    return (action.value, action.row.source == "teacher", action.row.candidate_index)


def _second_view(state: BranchValue, candidates: Sequence[BranchValue]) -> View | str:
    """Another view of the state, drawn by the state's key; or the reason why there is none."""
    elsewhere = [candidate for candidate in candidates if candidate.z != state.z]
    if not elsewhere:
        return "unseen_elsewhere"
    alike = [candidate for candidate in elsewhere if candidate.state_hash == state.state_hash]
    if not alike:
        return "other_state"
    text = _text(state)
    different = [candidate for candidate in alike if _text(candidate) != text]
    if not different:
        return "same_text"
    candidate = rng_for("second-view", state.key).choice(different)
    return View(candidate.key, candidate.z, candidate.history, candidate.user)


def _text(state: BranchValue) -> list[str]:
    return [*(text_of(turn.user) for turn in state.history), state.user]


def _to_table(pairs: Sequence[_Kept], scored_by: str) -> pa.Table:
    states = [pair.best.row for pair in pairs]
    views = [pair.view for pair in pairs]
    columns: dict[str, list[object]] = {
        name: [getattr(state, name) for state in states] for name in _STATE_COLUMNS
    }
    columns["history"] = [branch_values.turn_rows(state.history) for state in states]
    columns["scored_by"] = [scored_by] * len(pairs)
    columns |= _action_columns("chosen", [pair.best for pair in pairs])
    columns |= _action_columns("rejected", [pair.worst for pair in pairs])
    columns["view_key"] = [view and view.key for view in views]
    columns["view_z"] = [view and view.z for view in views]
    columns["view_history"] = [view and branch_values.turn_rows(view.history) for view in views]
    columns["view_user"] = [view and view.user for view in views]
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _action_columns(name: str, actions: Sequence[_Action]) -> dict[str, list[object]]:
    return {
        name: [action.row.candidate for action in actions],
        f"{name}_ids": [action.row.candidate_ids for action in actions],
        f"{name}_source": [action.row.source for action in actions],
        f"{name}_value": [action.value for action in actions],
        f"{name}_n": [action.n for action in actions],
    }


def pairs_of(table: pa.Table) -> Iterator[Pair]:
    """The pairs of a table, in its order."""
    for batch in table.to_batches():
        yield from map(_pair_of, batch.to_pylist())


def _pair_of(row: Mapping[str, Any]) -> Pair:
    view = None
    if row["view_key"] is not None:
        history = tuple(branch_values.read_turns(row["view_history"]))
        view = View(row["view_key"], row["view_z"], history, row["view_user"])
    return Pair(
        key=row["key"],
        history=tuple(branch_values.read_turns(row["history"])),
        user=row["user"],
        chosen=_answer_of(row, "chosen"),
        rejected=_answer_of(row, "rejected"),
        view=view,
    )


def _answer_of(row: Mapping[str, Any], name: str) -> Turn:
    ids = row[f"{name}_ids"]
    ids = None if ids is None else tuple(ids)
    return Turn(row["user"], row[name], row[f"{name}_source"], ids)


def save(path: Path, table: pa.Table) -> None:
    """Publish pairs as a file."""
    table_file.save(path, table, SCHEMA)


def load(path: Path) -> pa.Table:
    """Read pairs. Raises UsageError when the file is of another kind or version."""
    return table_file.load(path, SCHEMA, "preference pairs")
