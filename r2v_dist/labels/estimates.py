"""Which states to branch from, and what the branches say of them (METHOD sections 3 and 6).

States are chosen without a look at how their episodes ended, and the number of branches depends on the proposal alone, so
that every share of successes is unbiased. Branches whose replay drifted are left out and counted.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.chat import Turn, opening_message
from r2v_dist.episodes import Arm, Branch, Taken
from r2v_dist.labels.branch_values import BranchValue, Source
from r2v_dist.labels.table import SCHEMA, LabelTable
from r2v_dist.router.features import StepBatch, features
from r2v_dist.seeding import stable_hash
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.verifier.base import preferred

CANDIDATE, TEACHER = "candidate", "teacher"
"""Kinds of branches that value a first action: one of the SLM's candidates, or the teacher's."""
S, T1, TINF = "S", "T1", "Tinf"
"""Kinds of branches that label a state for the router."""
RS, RT = "RS", "RT"
"""Kinds in which a router goes on, after the SLM's action or the teacher's."""


@dataclass(frozen=True)
class State:
    """A step of a committed episode at which the SLM proposed, with all it takes to come back to it.

    `latent` is equal where the hidden state is: the same actions were executed in the same task. `own_success` is the
    outcome of the episode where the SLM was alone, None elsewhere.
    """

    task: str
    split: str
    z: int
    t: int
    prefix: int
    seen: int
    path: tuple[Taken, ...]
    history: tuple[Turn, ...]
    user: str
    candidates: tuple[Taken, ...]
    executed: int
    latent: int
    policy: str
    router: str
    episode: str
    own_success: bool | None
    features: tuple[float, ...]

    @property
    def key(self) -> str:
        """Equal for one state of the tree, whichever arm came through it."""
        return f"{self.task}|{self.z}|{self.prefix}"

    @property
    def distinct(self) -> tuple[Taken, ...]:
        """The candidates without repetitions, in their order."""
        return tuple({taken.action: taken for taken in reversed(self.candidates)}.values())[::-1]


def states_of(table: pa.Table, max_steps: int, alone: str = "slm_only") -> list[State]:
    """Every perturbed step with a proposal, each state of the tree once, sorted by key and step: as the SLM alone came to it where
    it did, else from the first arm by key.

    `alone` is the router under which the SLM acts as it will be deployed: `best_of_k` with a verifier.
    """
    table = table.filter(pc.and_(pc.is_valid(table["z"]), pc.greater_equal(table["t"], 0)))
    keys = list(zip(table["key"].to_pylist(), table["t"].to_pylist(), strict=True))
    vectors = dict(zip(keys, features(StepBatch.from_rows(table, max_steps=max_steps)).tolist(), strict=True))
    found: dict[str, State] = {}
    for rows in rollout_store.episodes_of(table):
        for state in _states_of_episode(rows, vectors, alone):
            if state.key not in found or (state.router == alone != found[state.key].router):
                found[state.key] = state
    return list(found.values())


def _states_of_episode(rows: Sequence[Mapping[str, Any]], vectors: Mapping[tuple[str, int], list[float]], alone: str) -> Iterator[State]:
    history: tuple[Turn, ...] = ()
    executed: tuple[str, ...] = ()
    for row in rows:
        user = row["observation"] if history else opening_message(row["goal"], row["observation"])
        candidates = tuple(
            Taken("slm", text, tuple(ids) if ids else None) for text, ids in zip(row["candidate_texts"], row["candidate_ids"], strict=True)
        )
        if candidates:
            yield State(
                task=row["task"],
                split=row["split"],
                z=row["z"],
                t=row["t"],
                prefix=row["prefix"],
                seen=stable_hash(row["observation"]),
                path=tuple(Taken(turn.actor, turn.action, turn.action_ids) for turn in history),
                history=history,
                user=user,
                candidates=candidates,
                executed=preferred(row["candidate_texts"], row["verifier_scores"]),
                latent=stable_hash(row["task"], *executed),
                policy=row["policy"],
                router=row["router"],
                episode=row["key"],
                own_success=row["success"] if row["router"] == alone else None,
                features=tuple(vectors[row["key"], row["t"]]),
            )
        history = (*history, Turn(user, row["action"], row["actor"], tuple(row["action_ids"]) if row["action_ids"] else None))
        executed += (row["action"],) if row["executed"] else ()


def choose(states: Sequence[State], count: int, seed: int, views: int = 2) -> list[State]:
    """`count` states, of which three in four are some where the candidates differ, while there are any.

    Up to `views` seeds that met one task and prefix come together, and every other group is such a one while there are any: second
    views of a state come from those, and most prefixes are met once.
    """
    groups: dict[tuple[str, int], list[State]] = {}
    for state in states:
        groups.setdefault((state.task, state.prefix), []).append(state)
    for group, members in groups.items():
        groups[group] = sorted(members, key=lambda s: stable_hash(seed, s.key))[:views]
    order = sorted(groups, key=lambda group: stable_hash("choose", seed, *group))

    def alternating(differ: bool) -> list[tuple[str, int]]:
        mine = [group for group in order if any(len(s.distinct) > 1 for s in groups[group]) == differ]
        shared, single = ([g for g in mine if (len(groups[g]) > 1) == several] for several in (True, False))
        return [group for pair in zip_longest(shared, single) for group in pair if group is not None]

    places = [(place / share, group) for differ, share in ((True, 3), (False, 1)) for place, group in enumerate(alternating(differ))]
    return [state for _, group in sorted(places, key=itemgetter(0)) for state in groups[group]][:count]


def sample(states: Sequence[State], count: int, seed: int, weights: Sequence[float] | None = None) -> list[State]:
    """`count` states, each as likely as the others, or drawn one after the other by their weights.

    The first of exponential waiting times (Efraimidis and Spirakis 2006): a state keeps its place whatever the other states are.
    """

    def wait(state: State, weight: float) -> float:
        return -math.log1p(-stable_hash("sample", seed, state.key) / 2**63) / max(weight, 1e-9)

    waits = [wait(*pair) for pair in zip(states, weights or [1.0] * len(states), strict=True)]
    return [states[i] for i in sorted(range(len(states)), key=waits.__getitem__)[:count]]


def candidate_branches(state: State, arm: Arm, n: int, n_agreed: int, with_teacher: bool) -> list[Branch]:
    """n branches for every distinct candidate, `n_agreed` where there is only one; as many for the teacher's action."""
    distinct = state.distinct
    replicas = range(1, 1 + (n if len(distinct) > 1 else n_agreed))
    branches = [Branch(CANDIDATE, arm, r, state.path, state.seen, first=taken) for taken in distinct for r in replicas]
    if with_teacher:
        branches += [Branch(TEACHER, arm, r, state.path, state.seen, teacher_first=True) for r in replicas]
    return branches


def label_branches(state: State, slm: Arm, teacher: Arm, n_s: int, n_t1: int, n_teacher: int, first_replica: int = 1) -> list[Branch]:
    """S-, T1- and Tinf-branches with common random numbers; the S-branches start with the action that was executed."""
    first = state.candidates[state.executed]

    def replicas(count: int) -> range:
        return range(first_replica, first_replica + count)

    return [
        *(Branch(S, slm, r, state.path, state.seen, first=first) for r in replicas(n_s)),
        *(Branch(T1, slm, r, state.path, state.seen, teacher_first=True) for r in replicas(n_t1)),
        *(Branch(TINF, teacher, r, state.path, state.seen) for r in replicas(n_teacher)),
    ]


def paired_branches(state: State, router: Arm, n: int) -> list[Branch]:
    """n pairs with common random numbers: the SLM's action or the teacher's, then the router on its own path."""
    first = state.candidates[state.executed]
    return [
        branch
        for replica in range(1, 1 + n)
        for branch in (
            Branch(RS, router, replica, state.path, state.seen, first=first),
            Branch(RT, router, replica, state.path, state.seen, teacher_first=True),
        )
    ]


@dataclass(frozen=True)
class _Count:
    """Branches of one kind from one state: how many, how many succeeded, and the mean number of teacher steps in them."""

    n: int
    successes: int
    calls: float


def _tally(branches: pa.Table, by_action: bool) -> tuple[dict[tuple[str, str, str], _Count], int]:
    """Counts by (kind, state key, first action or ""), and how many branches drifted.

    A branch that ends where it begins, because nobody has an action there, is one that failed; it has no first action.
    """
    drifted = set(branches.filter(branches["drift"])["key"].to_pylist())
    taught = branches.filter(pc.and_(pc.equal(branches["actor"], "teacher"), pc.greater_equal(branches["t"], branches["branch_t"])))
    calls = Counter(taught["key"].to_pylist())
    one_a_branch = branches.filter(pc.equal(branches["t"], branches["branch_t"])) if by_action else rollout_store.outcomes(branches)
    outcomes: dict[tuple[str, str, str], list[tuple[bool, int]]] = {}
    columns = ["key", "branch", "task", "z", "branch_prefix", "action", "success"]
    for row in one_a_branch.select(columns).to_pylist():
        if row["key"] not in drifted:
            state = f"{row['task']}|{row['z']}|{row['branch_prefix']}"
            ends = outcomes.setdefault((row["branch"], state, row["action"] if by_action else ""), [])
            ends.append((row["success"], calls[row["key"]]))
    counts = {
        name: _Count(len(ends), sum(won for won, _ in ends), float(np.mean([taught for _, taught in ends])))
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
            index = next((i for i, taken in enumerate(state.candidates) if taken.action == action), None)
            if kind == CANDIDATE and index is not None:
                rows.append(_value(state, state.candidates[index], index, "slm", count.n, count.successes))
            else:
                rows.append(_value(state, Taken("teacher", action), len(state.candidates), "teacher", count.n, count.successes))
    return rows, drifted


def outcome_values(states: Sequence[State]) -> list[BranchValue]:
    """v(x, a) of the action that was taken, from the one outcome of an episode of the SLM alone: as unbiased as a branch."""
    return [
        _value(state, state.candidates[state.executed], state.executed, "slm", 1, int(state.own_success))
        for state in states
        if state.own_success is not None
    ]


def _value(state: State, candidate: Taken, index: int, source: Source, n: int, successes: int) -> BranchValue:
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


def labels(states: Sequence[State], branches: pa.Table, alone: str = "slm_only") -> tuple[LabelTable, Counter[str]]:
    """The label table of the states about which anything is known, and what was left out: `drifted`, `unlabelled`."""
    counts, drifted = _tally(branches, by_action=False)
    left_out: Counter[str] = Counter(drifted=drifted)
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    none, told = _Count(0, 0, math.nan), _teacher_actions(branches)
    for state in states:
        s, t1, tinf, rs, rt = (counts.get((kind, state.key, ""), none) for kind in (S, T1, TINF, RS, RT))
        if rs.n != rt.n:  # one of a pair drifted
            rs = rt = none
        if s.n + t1.n + tinf.n + rs.n == 0:
            left_out["unlabelled"] += 1
            continue
        row = {
            **{"task": state.task, "split": state.split, "z": state.z, "prefix": state.prefix, "t": state.t},
            **{"source": "slm_only" if state.router == alone else state.router, "features": list(state.features)},
            **{"n_s": s.n, "s_s": s.successes, "n_t1": t1.n, "s_t1": t1.successes, "n_tinf": tinf.n, "s_tinf": tinf.successes},
            **{"differs": told[state.key] != state.candidates[state.executed].action if state.key in told else None},
            **{"n_r": rs.n, "s_rs": rs.successes, "s_rt": rt.successes, "m_rs": rs.calls, "m_rt": rt.calls},
            **{"m_tinf": tinf.calls, "own_success": state.own_success, "episode": state.episode, "weight": 1.0},
        }
        for name, value in row.items():
            columns[name].append(value)
    return LabelTable.of_columns(columns), left_out


def _teacher_actions(branches: pa.Table) -> dict[str, str]:
    """What the teacher did first, by state key, wherever it was asked."""
    first = branches.filter(pc.and_(pc.equal(branches["t"], branches["branch_t"]), pc.is_in(branches["branch"], pa.array([T1, TINF, RT]))))
    rows = first.select(["task", "z", "branch_prefix", "action"]).to_pylist()
    return {f"{row['task']}|{row['z']}|{row['branch_prefix']}": row["action"] for row in rows}
