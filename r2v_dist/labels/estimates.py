"""What the branches of a state estimate (docs/method.md, sections 3 and 6): values of candidates
and labels for the router.

Invariant: every share of successes is unbiased. States are chosen without a look at how their
episodes ended, and the number of branches of a state depends on its proposal alone. Branches whose
replay drifted are left out and counted.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.episodes import TakenAction
from r2v_dist.labels.branch_values import BranchValue, Source
from r2v_dist.labels.branches import CANDIDATE, RS, RT, T1, TINF, S
from r2v_dist.labels.states import State
from r2v_dist.labels.table import SCHEMA, LabelTable
from r2v_dist.storage import rollouts as rollout_store

_Name = tuple[str, str, str]
"""Kind of branch, key of its state, and its first action, or "" where that is left out."""


@dataclass(frozen=True)
class _Count:
    """Branches of one kind from one state: how many, how many succeeded, and the mean number of
    teacher steps in them.
    """

    n: int
    successes: int
    calls: float


_NO_BRANCH = _Count(0, 0, math.nan)


def _tally(branches: pa.Table, by_action: bool) -> tuple[dict[_Name, _Count], int]:
    """Counts by kind, state and (`by_action`) first action, and how many branches drifted.

    A branch that ends where it begins, because nobody has an action there, counts as failed; it
    has no first action.
    """
    drifted_keys = set(branches.filter(branches["drift"])["key"].to_pylist())
    calls = _teacher_calls(branches)
    ends: dict[_Name, list[tuple[bool, int]]] = {}
    columns = ["key", "branch", "task", "z", "branch_prefix", "action", "success"]
    for row in _one_row_a_branch(branches, by_action).select(columns).to_pylist():
        if row["key"] in drifted_keys:
            continue
        action = row["action"] if by_action else ""
        name = (row["branch"], _state_key(row), action)
        ends.setdefault(name, []).append((row["success"], calls[row["key"]]))
    counts = {name: _count(of_name) for name, of_name in ends.items()}
    return counts, len(drifted_keys)


def _one_row_a_branch(branches: pa.Table, first_step: bool) -> pa.Table:
    """Of every branch its first step after the state, or else the row that holds its outcome."""
    if first_step:
        return branches.filter(pc.equal(branches["t"], branches["branch_t"]))
    return rollout_store.outcomes(branches)


def _teacher_calls(branches: pa.Table) -> Counter[str]:
    """Teacher steps of every branch after its state, by the branch's key."""
    teacher_steps = branches.filter(
        pc.and_(
            pc.equal(branches["actor"], "teacher"),
            pc.greater_equal(branches["t"], branches["branch_t"]),
        )
    )
    return Counter(teacher_steps["key"].to_pylist())


def _state_key(row: Mapping[str, Any]) -> str:
    """`State.key` of the state that a branch starts from."""
    return f"{row['task']}|{row['z']}|{row['branch_prefix']}"


def _count(ends: Sequence[tuple[bool, int]]) -> _Count:
    successes = sum(success for success, _ in ends)
    mean_calls = float(np.mean([calls for _, calls in ends]))
    return _Count(len(ends), successes, mean_calls)


def branch_values(states: Sequence[State], branches: pa.Table) -> tuple[list[BranchValue], int]:
    """v(x, a) of every branched candidate and teacher action, and how many branches drifted."""
    counts, n_drifted = _tally(branches, by_action=True)
    by_state: dict[str, list[tuple[str, str, _Count]]] = {}
    for (kind, key, action), count in counts.items():
        by_state.setdefault(key, []).append((kind, action, count))
    rows = []
    for state in states:
        actions = [candidate.action for candidate in state.candidates]
        source: Source
        for kind, action, count in sorted(by_state.get(state.key, []), key=itemgetter(0, 1)):
            if kind == CANDIDATE and action in actions:
                index = actions.index(action)
                candidate = state.candidates[index]
                source = "slm"
            else:
                index = len(actions)
                candidate = TakenAction("teacher", action)
                source = "teacher"
            rows.append(_value(state, candidate, index, source, count.n, count.successes))
    return rows, n_drifted


def outcome_values(states: Sequence[State]) -> list[BranchValue]:
    """v(x, a) of the action that was taken, from the one outcome of an SLM-only episode: as
    unbiased as a branch.
    """
    rows = []
    for state in states:
        if state.own_success is not None:
            candidate = state.candidates[state.executed]
            successes = int(state.own_success)
            rows.append(_value(state, candidate, state.executed, "slm", 1, successes))
    return rows


def _value(
    state: State, candidate: TakenAction, index: int, source: Source, n: int, successes: int
) -> BranchValue:
    return BranchValue(
        key=state.key,
        task=state.task,
        split=state.split,
        z=state.z,
        prefix=state.prefix,
        t=state.t,
        history=state.history,
        user=state.user,
        candidate=candidate.action,
        candidate_ids=candidate.action_ids,
        candidate_index=index,
        source=source,
        n=n,
        successes=successes,
        state_hash=state.latent,
        policy=state.policy,
    )


@dataclass(frozen=True)
class _BranchCounts:
    """Branches of every labelling kind from one state."""

    s: _Count
    t1: _Count
    tinf: _Count
    rs: _Count
    rt: _Count

    @classmethod
    def of(cls, counts: Mapping[_Name, _Count], key: str) -> "_BranchCounts":
        """The counts of the state with this key. A pair of which one branch drifted is none."""
        rs = counts.get((RS, key, ""), _NO_BRANCH)
        rt = counts.get((RT, key, ""), _NO_BRANCH)
        paired = rs.n == rt.n
        return cls(
            s=counts.get((S, key, ""), _NO_BRANCH),
            t1=counts.get((T1, key, ""), _NO_BRANCH),
            tinf=counts.get((TINF, key, ""), _NO_BRANCH),
            rs=rs if paired else _NO_BRANCH,
            rt=rt if paired else _NO_BRANCH,
        )

    @property
    def total(self) -> int:
        """Branches, each pair counted once."""
        return self.s.n + self.t1.n + self.tinf.n + self.rs.n


def labels(
    states: Sequence[State], branches: pa.Table, slm_only_router: str = "slm_only"
) -> tuple[LabelTable, Counter[str]]:
    """The label table of the states that have a branch, and how many branches (`drifted`) and
    states (`unlabelled`) are left out.

    `slm_only_router` is the router under which the SLM acts without the teacher.
    """
    counts, n_drifted = _tally(branches, by_action=False)
    left_out: Counter[str] = Counter(drifted=n_drifted)
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    teacher_actions = _teacher_actions(branches)
    for state in states:
        branch_counts = _BranchCounts.of(counts, state.key)
        if branch_counts.total == 0:
            left_out["unlabelled"] += 1
            continue
        row = _label_row(state, branch_counts, teacher_actions.get(state.key), slm_only_router)
        for name, value in row.items():
            columns[name].append(value)
    return LabelTable.of_columns(columns), left_out


def _label_row(
    state: State, branch_counts: _BranchCounts, teacher_action: str | None, slm_only_router: str
) -> dict[str, Any]:
    """One row of the label table; `teacher_action` is None where the teacher was not asked."""
    slm_action = state.candidates[state.executed].action
    return {
        "task": state.task,
        "split": state.split,
        "z": state.z,
        "prefix": state.prefix,
        "t": state.t,
        "source": "slm_only" if state.router == slm_only_router else state.router,
        "features": list(state.features),
        "n_s": branch_counts.s.n,
        "s_s": branch_counts.s.successes,
        "n_t1": branch_counts.t1.n,
        "s_t1": branch_counts.t1.successes,
        "n_tinf": branch_counts.tinf.n,
        "s_tinf": branch_counts.tinf.successes,
        "m_tinf": branch_counts.tinf.calls,
        "differs": None if teacher_action is None else teacher_action != slm_action,
        "n_r": branch_counts.rs.n,
        "s_rs": branch_counts.rs.successes,
        "s_rt": branch_counts.rt.successes,
        "m_rs": branch_counts.rs.calls,
        "m_rt": branch_counts.rt.calls,
        "own_success": state.own_success,
        "episode": state.episode,
        "weight": 1.0,
    }


def _teacher_actions(branches: pa.Table) -> dict[str, str]:
    """The teacher's first action by state key, for the states at which it was asked."""
    first_steps = branches.filter(
        pc.and_(
            pc.equal(branches["t"], branches["branch_t"]),
            pc.is_in(branches["branch"], pa.array([T1, TINF, RT])),
        )
    )
    rows = first_steps.select(["task", "z", "branch_prefix", "action"]).to_pylist()
    return {_state_key(row): row["action"] for row in rows}
