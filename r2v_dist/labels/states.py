"""The states that branches start from, each once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.chat import Turn, opening_message
from r2v_dist.episodes import TakenAction
from r2v_dist.router.features import features
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.seeding import stable_hash
from r2v_dist.storage import rollouts as rollout_store


@dataclass(frozen=True)
class State:
    """A step of a committed episode at which the SLM proposed, with everything that a replay to it
    needs.

    `latent` is equal where the hidden state is: the same actions were executed in the same task.
    `own_success` is the outcome of an SLM-only episode, None for episodes of other arms.
    """

    task: str
    split: str
    z: int
    t: int
    prefix: int
    observation_hash: int
    path: tuple[TakenAction, ...]
    history: tuple[Turn, ...]
    user: str
    candidates: tuple[TakenAction, ...]
    executed: int
    latent: int
    policy: str
    router: str
    episode: str
    own_success: bool | None
    features: tuple[float, ...]

    @property
    def key(self) -> str:
        """Names the state of the tree, the same for every arm that visits it."""
        return f"{self.task}|{self.z}|{self.prefix}"

    @property
    def distinct(self) -> tuple[TakenAction, ...]:
        """The first candidate of every action, in the order of the actions' last candidates."""
        by_action: dict[str, TakenAction] = {}
        for candidate in reversed(self.candidates):
            by_action[candidate.action] = candidate
        return tuple(reversed(by_action.values()))


def states_of(table: pa.Table, max_steps: int, slm_only_router: str = "slm_only") -> list[State]:
    """Every perturbed step with a proposal, deduplicated by (task, z, prefix) and sorted by key and
    step. A visit by the SLM-only arm wins, otherwise the first arm in key order.

    `slm_only_router` is the router under which the SLM acts without the teacher: `best_of_k` with a
    verifier.
    """
    table = table.filter(pc.and_(pc.is_valid(table["z"]), pc.greater_equal(table["t"], 0)))
    steps = zip(table["key"].to_pylist(), table["t"].to_pylist(), strict=True)
    vectors = features(StepBatch.from_rows(table, max_steps=max_steps)).tolist()
    vector_of_step = dict(zip(steps, vectors, strict=True))
    states: dict[str, State] = {}
    for rows in rollout_store.episodes_of(table):
        for state in _states_of_episode(rows, vector_of_step, slm_only_router):
            earlier = states.get(state.key)
            if earlier is None or (state.router == slm_only_router != earlier.router):
                states[state.key] = state
    return list(states.values())


def _states_of_episode(
    rows: Sequence[Mapping[str, Any]],
    vector_of_step: Mapping[tuple[str, int], list[float]],
    slm_only_router: str,
) -> Iterator[State]:
    history: tuple[Turn, ...] = ()
    actions: tuple[str, ...] = ()
    for row in rows:
        user = row["observation"] if history else opening_message(row["goal"], row["observation"])
        if row["candidate_texts"]:
            vector = vector_of_step[row["key"], row["t"]]
            yield _state(row, history, actions, user, vector, slm_only_router)
        action_ids = tuple(row["action_ids"]) if row["action_ids"] else None
        history = (*history, Turn(user, row["action"], row["actor"], action_ids))
        actions += (row["action"],) if row["executed"] else ()


def _state(
    row: Mapping[str, Any],
    history: tuple[Turn, ...],
    actions: tuple[str, ...],
    user: str,
    vector: Sequence[float],
    slm_only_router: str,
) -> State:
    """The state of one step; `actions` are those that reached the environment before it."""
    proposals = zip(row["candidate_texts"], row["candidate_ids"], strict=True)
    return State(
        task=row["task"],
        split=row["split"],
        z=row["z"],
        t=row["t"],
        prefix=row["prefix"],
        observation_hash=stable_hash(row["observation"]),
        path=tuple(TakenAction(turn.actor, turn.action, turn.action_ids) for turn in history),
        history=history,
        user=user,
        candidates=tuple(
            TakenAction("slm", text, tuple(ids) if ids else None) for text, ids in proposals
        ),
        executed=row["chosen_index"],
        latent=stable_hash(row["task"], *actions),
        policy=row["policy"],
        router=row["router"],
        episode=row["key"],
        own_success=row["success"] if row["router"] == slm_only_router else None,
        features=tuple(vector),
    )


_Group = tuple[str, int]
"""Task and prefix: the states of one hidden path, seen under different perturbation seeds."""


def choose(states: Sequence[State], count: int, seed: int, views: int = 2) -> list[State]:
    """Sample `count` states, three in four with disagreeing candidates as long as such states
    remain.

    States of one task and prefix under different seeds are views of one another; up to `views` of
    them are chosen together. Every other group has several views as long as such groups remain,
    because most prefixes are met under one seed only.
    """
    groups: dict[_Group, list[State]] = {}
    for state in states:
        groups.setdefault((state.task, state.prefix), []).append(state)
    for group, members in groups.items():
        groups[group] = sorted(members, key=lambda s: stable_hash(seed, s.key))[:views]
    order = sorted(groups, key=lambda group: stable_hash("choose", seed, *group))
    disagreeing = [group for group in order if _disagree(groups[group])]
    agreeing = [group for group in order if not _disagree(groups[group])]
    places: list[tuple[float, _Group]] = []
    for share, of_kind in ((3, disagreeing), (1, agreeing)):
        shared = [group for group in of_kind if len(groups[group]) > 1]
        single = [group for group in of_kind if len(groups[group]) == 1]
        places += [(i / share, group) for i, group in enumerate(_alternating(shared, single))]
    selection: list[State] = []
    for _, group in sorted(places, key=itemgetter(0)):
        selection += groups[group]
    return selection[:count]


def _disagree(views: Sequence[State]) -> bool:
    """Whether the SLM proposed different actions in any of these states."""
    return any(len(state.distinct) > 1 for state in views)


def _alternating(first: Sequence[_Group], second: Sequence[_Group]) -> list[_Group]:
    """One group of each list in turn, then what is left of the longer list."""
    in_turn: list[_Group] = []
    for pair in zip_longest(first, second):
        in_turn += [group for group in pair if group is not None]
    return in_turn


def sample(
    states: Sequence[State], count: int, seed: int, weights: Sequence[float] | None = None
) -> list[State]:
    """Sample `count` states without replacement, with probabilities in proportion to `weights`,
    uniformly without them.

    The states with the shortest exponential waiting times are taken (Efraimidis and Spirakis,
    "Weighted random sampling with a reservoir", 2006). The waiting time of a state does not depend
    on the other states.
    """

    def wait(state: State, weight: float) -> float:
        return -math.log1p(-stable_hash("sample", seed, state.key) / 2**63) / max(weight, 1e-9)

    waits = [wait(*pair) for pair in zip(states, weights or [1.0] * len(states), strict=True)]
    return [states[i] for i in sorted(range(len(states)), key=waits.__getitem__)[:count]]
