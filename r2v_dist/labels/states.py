"""The states that are labelled, each once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.chat import Turn, opening_message
from r2v_dist.episodes import Taken
from r2v_dist.router.features import features
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.seeding import stable_hash
from r2v_dist.storage import rollouts as rollout_store


@dataclass(frozen=True)
class State:
    """A step of a committed episode at which the SLM proposed, with all it takes to come back to
    it.

    `latent` is equal where the hidden state is: the same actions were executed in the same task.
    `own_success` is the outcome of the episode where the SLM was alone, None elsewhere.
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
    """Every perturbed step with a proposal, each state of the tree once, sorted by key and step: as
    the SLM alone came to it where it did, else from the first arm by key.

    `alone` is the router under which the SLM acts as it will be deployed: `best_of_k` with a
    verifier.
    """
    table = table.filter(pc.and_(pc.is_valid(table["z"]), pc.greater_equal(table["t"], 0)))
    keys = list(zip(table["key"].to_pylist(), table["t"].to_pylist(), strict=True))
    vectors = dict(
        zip(keys, features(StepBatch.from_rows(table, max_steps=max_steps)).tolist(), strict=True)
    )
    found: dict[str, State] = {}
    for rows in rollout_store.episodes_of(table):
        for state in _states_of_episode(rows, vectors, alone):
            if state.key not in found or (state.router == alone != found[state.key].router):
                found[state.key] = state
    return list(found.values())


def _states_of_episode(
    rows: Sequence[Mapping[str, Any]], vectors: Mapping[tuple[str, int], list[float]], alone: str
) -> Iterator[State]:
    history: tuple[Turn, ...] = ()
    executed: tuple[str, ...] = ()
    for row in rows:
        user = row["observation"] if history else opening_message(row["goal"], row["observation"])
        candidates = tuple(
            Taken("slm", text, tuple(ids) if ids else None)
            for text, ids in zip(row["candidate_texts"], row["candidate_ids"], strict=True)
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
                executed=row["chosen_index"],
                latent=stable_hash(row["task"], *executed),
                policy=row["policy"],
                router=row["router"],
                episode=row["key"],
                own_success=row["success"] if row["router"] == alone else None,
                features=tuple(vectors[row["key"], row["t"]]),
            )
        history = (
            *history,
            Turn(
                user,
                row["action"],
                row["actor"],
                tuple(row["action_ids"]) if row["action_ids"] else None,
            ),
        )
        executed += (row["action"],) if row["executed"] else ()


def choose(states: Sequence[State], count: int, seed: int, views: int = 2) -> list[State]:
    """`count` states, of which three in four are some where the candidates differ, while there are
    any.

    Up to `views` seeds that met one task and prefix come together, and every other group is such a
    one while there are any: second views of a state come from those, and most prefixes are met
    once.
    """
    groups: dict[tuple[str, int], list[State]] = {}
    for state in states:
        groups.setdefault((state.task, state.prefix), []).append(state)
    for group, members in groups.items():
        groups[group] = sorted(members, key=lambda s: stable_hash(seed, s.key))[:views]
    order = sorted(groups, key=lambda group: stable_hash("choose", seed, *group))

    def alternating(differ: bool) -> list[tuple[str, int]]:
        mine = [
            group for group in order if any(len(s.distinct) > 1 for s in groups[group]) == differ
        ]
        shared, single = (
            [g for g in mine if (len(groups[g]) > 1) == several] for several in (True, False)
        )
        return [
            group for pair in zip_longest(shared, single) for group in pair if group is not None
        ]

    places = [
        (place / share, group)
        for differ, share in ((True, 3), (False, 1))
        for place, group in enumerate(alternating(differ))
    ]
    return [state for _, group in sorted(places, key=itemgetter(0)) for state in groups[group]][
        :count
    ]


def sample(
    states: Sequence[State], count: int, seed: int, weights: Sequence[float] | None = None
) -> list[State]:
    """`count` states, each as likely as the others, or drawn one after the other by their weights.

    The first of exponential waiting times (Efraimidis and Spirakis 2006): a state keeps its place
    whatever the other states are.
    """

    def wait(state: State, weight: float) -> float:
        return -math.log1p(-stable_hash("sample", seed, state.key) / 2**63) / max(weight, 1e-9)

    waits = [wait(*pair) for pair in zip(states, weights or [1.0] * len(states), strict=True)]
    return [states[i] for i in sorted(range(len(states)), key=waits.__getitem__)[:count]]
