"""Which states to branch from, and what the branches say of them (docs/method.md, sections 3 and
6).

States are chosen without a look at how their episodes ended, and the number of branches depends on
the proposal alone, so that every share of successes is unbiased. Branches whose replay drifted are
left out and counted.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.episodes import Taken
from r2v_dist.labels.branch_values import BranchValue, Source
from r2v_dist.labels.branches import CANDIDATE, RS, RT, T1, TINF, S
from r2v_dist.labels.states import State
from r2v_dist.labels.table import SCHEMA, LabelTable
from r2v_dist.storage import rollouts as rollout_store


@dataclass(frozen=True)
class _Count:
    """Branches of one kind from one state: how many, how many succeeded, and the mean number of
    teacher steps in them.
    """

    n: int
    successes: int
    calls: float


def _tally(branches: pa.Table, by_action: bool) -> tuple[dict[tuple[str, str, str], _Count], int]:
    """Counts by (kind, state key, first action or ""), and how many branches drifted.

    A branch that ends where it begins, because nobody has an action there, is one that failed; it
    has no first action.
    """
    drifted = set(branches.filter(branches["drift"])["key"].to_pylist())
    taught = branches.filter(
        pc.and_(
            pc.equal(branches["actor"], "teacher"),
            pc.greater_equal(branches["t"], branches["branch_t"]),
        )
    )
    calls = Counter(taught["key"].to_pylist())
    one_a_branch = (
        branches.filter(pc.equal(branches["t"], branches["branch_t"]))
        if by_action
        else rollout_store.outcomes(branches)
    )
    outcomes: dict[tuple[str, str, str], list[tuple[bool, int]]] = {}
    columns = ["key", "branch", "task", "z", "branch_prefix", "action", "success"]
    for row in one_a_branch.select(columns).to_pylist():
        if row["key"] not in drifted:
            state = f"{row['task']}|{row['z']}|{row['branch_prefix']}"
            ends = outcomes.setdefault(
                (row["branch"], state, row["action"] if by_action else ""), []
            )
            ends.append((row["success"], calls[row["key"]]))
    counts = {
        name: _Count(
            len(ends), sum(won for won, _ in ends), float(np.mean([taught for _, taught in ends]))
        )
        for name, ends in outcomes.items()
    }
    return counts, len(drifted)


def branch_values(states: Sequence[State], branches: pa.Table) -> tuple[list[BranchValue], int]:
    """v(x, a) of every branched candidate and teacher action, and how many branches drifted."""
    counts, drifted = _tally(branches, by_action=True)
    by_state: dict[str, list[tuple[str, str, _Count]]] = {}
    for (kind, key, action), count in counts.items():
        by_state.setdefault(key, []).append((kind, action, count))
    rows = []
    for state in states:
        for kind, action, count in sorted(by_state.get(state.key, []), key=lambda item: item[:2]):
            index = next(
                (i for i, taken in enumerate(state.candidates) if taken.action == action), None
            )
            if kind == CANDIDATE and index is not None:
                rows.append(
                    _value(state, state.candidates[index], index, "slm", count.n, count.successes)
                )
            else:
                rows.append(
                    _value(
                        state,
                        Taken("teacher", action),
                        len(state.candidates),
                        "teacher",
                        count.n,
                        count.successes,
                    )
                )
    return rows, drifted


def outcome_values(states: Sequence[State]) -> list[BranchValue]:
    """v(x, a) of the action that was taken, from the one outcome of an episode of the SLM alone: as
    unbiased as a branch.
    """
    return [
        _value(
            state,
            state.candidates[state.executed],
            state.executed,
            "slm",
            1,
            int(state.own_success),
        )
        for state in states
        if state.own_success is not None
    ]


def _value(
    state: State, candidate: Taken, index: int, source: Source, n: int, successes: int
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


def labels(
    states: Sequence[State], branches: pa.Table, alone: str = "slm_only"
) -> tuple[LabelTable, Counter[str]]:
    """The label table of the states about which anything is known, and what was left out:
    `drifted`, `unlabelled`.
    """
    counts, drifted = _tally(branches, by_action=False)
    left_out: Counter[str] = Counter(drifted=drifted)
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    none = _Count(0, 0, math.nan)
    told = _teacher_actions(branches)
    for state in states:
        s, t1, tinf, rs, rt = (
            counts.get((kind, state.key, ""), none) for kind in (S, T1, TINF, RS, RT)
        )
        if rs.n != rt.n:  # one of a pair drifted
            rs = rt = none
        if s.n + t1.n + tinf.n + rs.n == 0:
            left_out["unlabelled"] += 1
            continue
        row = {
            **{
                "task": state.task,
                "split": state.split,
                "z": state.z,
                "prefix": state.prefix,
                "t": state.t,
            },
            **{
                "source": "slm_only" if state.router == alone else state.router,
                "features": list(state.features),
            },
            **{
                "n_s": s.n,
                "s_s": s.successes,
                "n_t1": t1.n,
                "s_t1": t1.successes,
                "n_tinf": tinf.n,
                "s_tinf": tinf.successes,
            },
            **{
                "differs": told[state.key] != state.candidates[state.executed].action
                if state.key in told
                else None
            },
            **{
                "n_r": rs.n,
                "s_rs": rs.successes,
                "s_rt": rt.successes,
                "m_rs": rs.calls,
                "m_rt": rt.calls,
            },
            **{
                "m_tinf": tinf.calls,
                "own_success": state.own_success,
                "episode": state.episode,
                "weight": 1.0,
            },
        }
        for name, value in row.items():
            columns[name].append(value)
    return LabelTable.of_columns(columns), left_out


def _teacher_actions(branches: pa.Table) -> dict[str, str]:
    """What the teacher did first, by state key, wherever it was asked."""
    first = branches.filter(
        pc.and_(
            pc.equal(branches["t"], branches["branch_t"]),
            pc.is_in(branches["branch"], pa.array([T1, TINF, RT])),
        )
    )
    rows = first.select(["task", "z", "branch_prefix", "action"]).to_pylist()
    return {f"{row['task']}|{row['z']}|{row['branch_prefix']}": row["action"] for row in rows}
