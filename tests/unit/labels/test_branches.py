"""Branches against closed forms: on a ladder of five rungs and twelve steps every chance of success
is a binomial tail.
"""

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from actors.language_models.expert import ExpertModel
from actors.language_models.simulated import SimulatedModel
from r2v_dist.agent.episode import ModelRole, Models, play
from r2v_dist.agent.tree import Tree, TreeEnv
from r2v_dist.episodes import Arm, Episode, Task, Unit
from r2v_dist.labels import estimates as branching
from r2v_dist.labels.branches import candidate_branches, label_branches, paired_branches
from r2v_dist.labels.states import State, choose, sample, states_of
from r2v_dist.language_model import Sampling
from r2v_dist.router.registry import RouterModels
from r2v_dist.seeding import rng_for
from r2v_dist.storage import rollouts as rollout_store
from tests.unit.agent.test_episode import Ladder

FAILURE = 0.55
STEPS, RUNGS, K = 12, 5, 3
MODELS = Models(
    ModelRole("slm", SimulatedModel(FAILURE), Sampling(n=K)),
    ModelRole("teacher", ExpertModel(), Sampling()),
)
TASKS = [Task(f"ladder-{i}", "train", "none", (("max_steps", STEPS),)) for i in range(4)]
ALONE, RANDOM = (
    Arm("slm_only", None, "policy", "expert", 0),
    Arm("random", 0.3, "policy", "expert", 0),
)
TEACHER = Arm("teacher_only", None, "policy", "expert", 0)


def play_all(units: list[Unit], folder: Path, game: type[Ladder] = Ladder) -> pa.Table:
    async def everything() -> list[Episode]:
        return [
            await play(world, unit, run, MODELS)
            for unit in units
            for world in [TreeEnv(game(), Tree())]
            for run in unit.runs
        ]

    rollout_store.commit(folder, 0, asyncio.run(everything()))
    return rollout_store.read(folder)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    units = [Unit("states", "h", task, z, 0, (ALONE, RANDOM)) for task in TASKS for z in range(3)]
    return states_of(play_all(units, tmp_path_factory.mktemp("states")), STEPS)


def binomial_tail(steps: int, need: int) -> float:
    """Chance of at least `need` of the SLM's steps going up."""
    up = 1 - FAILURE
    return sum(
        math.comb(steps, k) * up**k * FAILURE ** (steps - k) for k in range(max(need, 0), steps + 1)
    )


def chance(rung: int, steps_left: int) -> float:
    """Of reaching the top with independent steps."""
    return binomial_tail(steps_left, RUNGS - rung)


def rung(state: State) -> int:
    return sum(taken.action == "up" for taken in state.path)


def test_states_are_whole_and_each_is_there_once(states: list[State]) -> None:
    assert len({s.key for s in states}) == len(states) > 50
    assert {s.router for s in states} == {"slm_only", "random"}
    for state in states:
        assert (len(state.path), len(state.history), len(state.candidates)) == (state.t, state.t, K)
        assert len({s.latent for s in states if (s.task, s.path) == (state.task, state.path)}) == 1
        assert (state.own_success is None) == (state.router == "random")


def test_values_of_candidates_are_their_chances(states: list[State], tmp_path: Path) -> None:
    chosen = [s for s in choose(states, 60, seed=1) if len(s.distinct) == 2 and s.t < 8][:5]
    assert chosen
    by_id, n = {task.id: task for task in TASKS}, 300
    units = [
        Unit(
            "b",
            "h",
            by_id[s.task],
            s.z,
            0,
            (),
            tuple(candidate_branches(s, ALONE, n, 5, with_teacher=True)),
        )
        for s in chosen
    ]
    rows, drifted = branching.branch_values(chosen, play_all(units, tmp_path))
    assert drifted == 0
    assert len(rows) == 3 * len(chosen)
    for row in rows:
        state = next(s for s in chosen if s.key == row.key)
        expected = chance(rung(state) + (row.candidate == "up"), STEPS - state.t - 1)
        assert row.n == n
        assert row.value == pytest.approx(
            expected, abs=4 * math.sqrt(expected * (1 - expected) / n) + 1e-9
        )
    assert {row.source for row in rows} == {"slm", "teacher"}


def test_labels_are_the_risks_of_the_three_continuations(
    states: list[State], tmp_path: Path
) -> None:
    chosen = [s for s in states if s.t in (1, 4, 6)][:8]
    by_id, n = {task.id: task for task in TASKS}, 300
    units = [
        Unit("l", "h", by_id[s.task], s.z, 0, (), tuple(label_branches(s, ALONE, TEACHER, n, n, 1)))
        for s in chosen
    ]
    table, left_out = branching.labels(chosen, play_all(units, tmp_path))
    assert left_out.total() == 0
    assert len(table) == len(chosen)
    for i, state in enumerate(chosen):
        left, up = STEPS - state.t, state.candidates[0].action == "up"
        risk, risk1 = 1 - chance(rung(state) + up, left - 1), 1 - chance(rung(state) + 1, left - 1)
        own = state.own_success is not None
        assert table.n[i] == n + own
        assert table.rho[i] == pytest.approx(risk, abs=4 * math.sqrt(risk * (1 - risk) / n) + 0.01)
        assert table.rho1[i] == pytest.approx(
            risk1, abs=4 * math.sqrt(risk1 * (1 - risk1) / n) + 1e-9
        )
        assert (
            (table.rhoT[i], table.m[i]) == (0.0, RUNGS - rung(state))
            if left >= RUNGS - rung(state)
            else (1.0, left)
        )


def test_pairs_tell_what_the_teachers_step_is_worth_to_who_goes_on_asking(
    states: list[State], tmp_path: Path
) -> None:
    chosen = [s for s in states if s.t in (1, 4, 6)][:8]
    by_id, n = {task.id: task for task in TASKS}, 200
    units = [
        Unit("p", "h", by_id[s.task], s.z, 0, (), tuple(paired_branches(s, RANDOM, n)))
        for s in chosen
    ]
    table, left_out = branching.labels(chosen, play_all(units, tmp_path))
    assert left_out.total() == 0
    assert {s.candidates[0].action == "up" for s in chosen} == {True, False}
    for i, state in enumerate(chosen):
        asks = sum(
            rng_for("random-escalation", state.task, state.z, t).random() < 0.3
            for t in range(state.t + 1, STEPS)
        )
        up = state.candidates[0].action == "up"
        s, t = (
            binomial_tail(STEPS - state.t - 1 - asks, RUNGS - rung(state) - first - asks)
            for first in (up, True)
        )
        assert (table.pairs[i], table.n[i], table.dissent[i]) == (
            n,
            float(state.own_success is not None),
            float(not up),
        )
        assert table.success_gained[i] == pytest.approx(
            t - s, abs=4 * math.sqrt((s * (1 - s) + t * (1 - t)) / n) + 1e-9
        )
        # The step itself is a call, and the way that it shortens may have others.
        least, most = (-1.0, -1.0) if up else (-1.0 - 0.1, asks - 1.0)
        assert least - 1e-9 <= table.calls_saved[i] <= most + 1e-9


def test_the_oracle_knows_the_chance_of_failing_from_where_it_is() -> None:
    n = 400
    models = Models(MODELS.slm, MODELS.teacher, routers=RouterModels(oracle_branches=n))
    unit = Unit("o", "h", TASKS[0], 1, 0, (Arm("oracle", 0.5, "policy", "expert", 0),))
    episode = asyncio.run(play(TreeEnv(Ladder(), Tree()), unit, unit.arms[0], models))
    on = 0
    for t, step in enumerate(episode.steps):
        assert step.proposal is not None
        risk = 1 - chance(on + (step.proposal.candidates[0].text == "up"), STEPS - t - 1)
        assert step.score == pytest.approx(risk, abs=4 * math.sqrt(risk * (1 - risk) / n) + 1e-9)
        assert (step.actor == "teacher") == (step.score >= 0.5)
        on += step.action == "up"
        assert not step.drift
    assert episode.success


def test_where_nobody_can_help_the_branch_has_failed_and_is_not_forgotten(
    states: list[State], tmp_path: Path
) -> None:
    class Lost(Ladder):
        """From the fourth step on the expert knows no way."""

        def expert_action(self) -> str | None:
            return "up" if self._t < 3 else None

    chosen = [s for s in states if s.t in (0, 5)][:6]
    by_id = {task.id: task for task in TASKS}
    units = [
        Unit("l", "h", by_id[s.task], s.z, 0, (), tuple(label_branches(s, ALONE, TEACHER, 4, 4, 1)))
        for s in chosen
    ]
    table, left_out = branching.labels(chosen, play_all(units, tmp_path, Lost))
    assert (len(table), left_out.total()) == (len(chosen), 0)
    assert {s.t for s in chosen} == {0, 5}
    assert table.rhoT.tolist() == [1.0] * len(chosen)
    assert [m for m, s in zip(table.m, chosen, strict=True) if s.t == 0] == [3.0] * sum(
        s.t == 0 for s in chosen
    )
    assert [(r, m) for r, m, s in zip(table.rho1, table.m, chosen, strict=True) if s.t == 5] == [
        (1.0, 0.0)
    ] * sum(s.t == 5 for s in chosen)


def test_the_choice_does_not_look_at_outcomes_and_keeps_views_together(states: list[State]) -> None:
    flipped = [replace(s, own_success=not s.own_success) for s in states]
    assert [s.key for s in choose(states, 20, 3)] == [s.key for s in choose(flipped, 20, 3)]
    chosen = choose(states, 24, 3)
    assert len(chosen) == 24
    shared = {
        (s.task, s.prefix)
        for s in states
        if sum((o.task, o.prefix) == (s.task, s.prefix) for o in states) > 1
    }
    complete = [s for s in chosen[:-1] if (s.task, s.prefix) in shared]
    assert all(
        sum((o.task, o.prefix) == (s.task, s.prefix) for o in chosen) == 2 for s in complete[:-1]
    )


def test_states_are_sampled_by_their_weights_whatever_the_others_are(states: list[State]) -> None:
    plain = sample(states, 20, 3)
    assert len({s.key for s in plain}) == 20
    assert [s.key for s in sample(plain[::-1], 20, 3)] == [s.key for s in plain]
    heavy = {s.key for s in states[:10]}
    weights = [9.0 if s.key in heavy else 1.0 for s in states]
    total = 9.0 * 10 + len(states) - 10
    first = [sample(states, 1, seed, weights)[0].key in heavy for seed in range(600)]
    assert np.mean(first) == pytest.approx(90 / total, abs=4 * (0.25 / 600) ** 0.5)
    none = sample(states, len(states) - 10, 3, [0.0 if s.key in heavy else 1.0 for s in states])
    assert not heavy & {s.key for s in none}


def test_states_where_candidates_differ_come_first(states: list[State]) -> None:
    chosen = choose(states, 24, 3)
    assert sum(len(s.distinct) > 1 for s in chosen) >= 14
    assert sum(len(s.distinct) == 1 for s in chosen) >= 2


def test_an_outcome_is_one_more_branch(states: list[State]) -> None:
    rows = branching.outcome_values(states)
    assert {row.key for row in rows} == {s.key for s in states if s.own_success is not None}
    by_key = {s.key: s for s in states}
    for row in rows:
        state = by_key[row.key]
        assert (row.n, row.value, row.candidate) == (
            1,
            float(bool(state.own_success)),
            state.candidates[state.executed].action,
        )
