"""The agent loop with no cluster: routing, the shared tree, stop reasons, drift, and paths that
pair until they part.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from actors.language_models.expert import ExpertModel
from actors.language_models.simulated import SimulatedModel
from r2v_dist.agent.episode import ModelRole, Models, play
from r2v_dist.agent.tree import Tree, TreeEnv
from r2v_dist.episodes import Arm, Branch, Episode, StopReason, TakenAction, Task, Unit
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import (
    Answer,
    Candidate,
    ContextLimitReached,
    Request,
    Sampling,
    TopTokens,
)
from r2v_dist.router.baselines import step_draw
from r2v_dist.router.features import features
from r2v_dist.router.policies import Decision, ProposalThreshold, RandomEscalation
from r2v_dist.router.registry import RouterModels
from r2v_dist.router.step_batch import StepBatch
from r2v_dist.router.step_context import StepContext
from r2v_dist.seeding import stable_hash
from r2v_dist.storage import step_table

TASK = Task("ladder", "test", "none", (("max_steps", 12),))
SAMPLING = Sampling()


class Ladder:
    """Climb five rungs by saying `up`; `wait` does nothing; at most twelve steps."""

    def __init__(self, crash_at: int | None = None, moody: bool = False) -> None:
        self._crash_at, self._moody, self._games = crash_at, moody, 0

    def reset(self) -> tuple[str, dict[str, Any]]:
        self._rung = self._t = 0
        self._games += 1
        return self._told(), self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._t += 1
        if self._t == self._crash_at:
            raise OSError("the ladder broke")
        self._rung += action == "up"
        won, out = self._rung == 5, self._t == 12
        info = self._info() | (
            {"stop_reason": "won"} if won else {"stop_reason": "step_limit"} if out else {}
        )
        return self._told(), float(won), won, out and not won, info

    def expert_action(self) -> str | None:
        return "up"

    def _told(self) -> str:
        return f"rung {self._rung}" + (f", game {self._games}" if self._moody else "")

    def _info(self) -> dict[str, Any]:
        return {
            "goal": "climb",
            "clean_observation": self._told(),
            "perturbations": [],
            "executed": True,
        }


class Counting:
    """Counts the requests that reach a model."""

    def __init__(self, model: Any) -> None:
        self.model, self.requests = model, list[Request]()

    async def sample(self, request: Request) -> Answer:
        self.requests.append(request)
        answer: Answer = await self.model.sample(request)
        return answer


def arm(router: str, threshold: float | None = None) -> Arm:
    return Arm(router, threshold, "policy", "expert", 0)


def run(
    arms: Sequence[Arm | Branch],
    env: Any = None,
    slm: Any = None,
    z: int | None = 3,
    replica: int = 0,
    expert: bool = False,
) -> tuple[list[Episode], Tree]:
    unit = Unit("evaluate", "hash", TASK, z, replica, ())
    world = TreeEnv(env or Ladder(), Tree(), expert)
    slm_player = ModelRole("slm", slm or SimulatedModel(0.4), SAMPLING)
    teacher = ModelRole("teacher", ExpertModel(), SAMPLING)

    async def all_arms() -> list[Episode]:
        return [await play(world, unit, a, Models(slm_player, teacher)) for a in arms]

    return asyncio.run(all_arms()), world.tree


def test_the_ends_and_who_acted() -> None:
    (alone, taught), _ = run([arm("slm_only"), arm("teacher_only")])
    assert {s.actor for s in alone.steps} == {"slm"}
    assert [s.action for s in taught.steps] == ["up"] * 5
    assert {s.actor for s in taught.steps} == {"teacher"}
    assert taught.success
    assert taught.stop_reason is StopReason.WON


def test_equal_questions_are_asked_once_and_arms_pair_until_they_part() -> None:
    counting = Counting(SimulatedModel(0.4))
    (first, second), tree = run([arm("slm_only"), arm("random", 0.0)], slm=counting)
    assert [s.action for s in first.steps] == [s.action for s in second.steps]
    assert len(counting.requests) == len(first.steps)
    assert tree.asked["slm"] == 2 * len(first.steps)

    (alone, routed), _ = run([arm("slm_only"), arm("random", 0.4)])
    parted = next(
        i
        for i, (a, b) in enumerate(zip(alone.steps, routed.steps, strict=False))
        if a.actor != b.actor
    )
    assert alone.steps[:parted] == tuple(replace(s, score=None) for s in routed.steps[:parted])


def test_random_escalation_nests_and_has_its_rate() -> None:
    chosen: dict[float, set[tuple[int, int]]] = {0.2: set(), 0.6: set()}
    steps = 0
    for z in range(60):
        for rate in chosen:
            [episode], _ = run([arm("random", rate)], slm=SimulatedModel(1.0), z=z)
            chosen[rate] |= {(z, t) for t, s in enumerate(episode.steps) if s.actor == "teacher"}
            steps += len(episode.steps) if rate == 0.2 else 0
    shared = {(z, t) for z, t in chosen[0.2] if t < 5}
    assert shared <= chosen[0.6]
    assert len(chosen[0.2]) / steps == pytest.approx(0.2, abs=0.05)


def test_entropy_threshold_needs_the_proposal_and_keeps_its_score() -> None:
    class Unsure:
        async def sample(self, request: Request) -> Answer:
            unsure = len(request.history) % 2 == 0
            top = TopTokens.of([(1, -0.6931), (2, -0.6931)] if unsure else [(1, 0.0)])
            return Answer((Candidate("wait"),), "policy", first_top=top)

    [episode], _ = run([arm("entropy", 0.5)], slm=Unsure())
    assert [s.actor for s in episode.steps[:4]] == ["teacher", "slm", "teacher", "slm"]
    assert episode.steps[0].score == pytest.approx(0.6931, abs=1e-3)
    assert episode.steps[1].score == pytest.approx(0.0, abs=1e-6)


def test_a_stuck_latch_hands_over_on_its_own_path() -> None:
    [episode], _ = run([arm("stuck_latch", 2.0)], slm=SimulatedModel(1.0))
    # Two waits that change nothing, then the teacher to the end.
    assert [s.action for s in episode.steps] == ["wait"] * 2 + ["up"] * 5
    assert [s.score for s in episode.steps] == [0.0, 1.0, 2.0, None, None, None, None]
    assert episode.success


def test_a_budget_binds_a_live_episode() -> None:
    unit = Unit("evaluate", "hash", TASK, 3, 0, (arm("random", 1.0),))
    player, teacher = (
        ModelRole("slm", SimulatedModel(1.0), SAMPLING),
        ModelRole("teacher", ExpertModel(), SAMPLING),
    )
    models = RouterModels(budgets={"random": 3})
    episode = asyncio.run(
        play(TreeEnv(Ladder(), Tree()), unit, unit.arms[0], Models(player, teacher, routers=models))
    )
    assert [s.actor for s in episode.steps] == ["teacher"] * 3 + ["slm"] * 9


def test_a_router_sees_the_history_of_its_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[StepContext]()

    class Watching(RandomEscalation):
        def decide(self, context: StepContext, proposal: Answer | None) -> Decision:
            seen.append(context)
            return super().decide(context, proposal)

    monkeypatch.setattr("r2v_dist.agent.episode.build_router", lambda *_: Watching(0.5, step_draw))
    [episode], _ = run([arm("random", 0.5)])
    assert [s.t for s in seen] == list(range(len(episode.steps)))
    assert seen[-1].actions == tuple(s.action for s in episode.steps[:-1])
    assert seen[-1].observations == tuple(s.observation for s in episode.steps)
    assert seen[-1].escalations == sum(s.actor == "teacher" for s in episode.steps[:-1])
    assert (seen[0].goal, seen[0].max_steps) == ("climb", 12)


def test_what_a_router_saw_live_is_what_the_store_gives_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Talkative:
        async def sample(self, request: Request) -> Answer:
            rng = random.Random(request.seed)
            candidates = tuple(
                Candidate(rng.choice(["up", "wait"]), (rng.randrange(9),), (-rng.random(), -0.1))
                for _ in range(5)
            )
            return Answer(
                candidates,
                "policy",
                40 + len(request.history),
                TopTokens.of([(1, -0.5), (2, -1.5)]),
            )

    seen = list[npt.NDArray[np.float64]]()

    def watched(context: StepContext, proposal: Answer) -> float:
        seen.append(features(StepBatch.of_step(proposal, context))[0])
        return float(context.t % 3 == 1)

    monkeypatch.setattr(
        "r2v_dist.agent.episode.build_router", lambda *_: ProposalThreshold(1.0, watched)
    )
    episodes = [run([arm("entropy", 1.0)], slm=Talkative(), z=z)[0][0] for z in range(3)]
    assert {s.actor for e in episodes for s in e.steps} == {"slm", "teacher"}
    stored = features(StepBatch.from_rows(step_table.to_table(episodes), max_steps=12))
    np.testing.assert_allclose(stored, np.array(seen), rtol=1e-12)


def test_the_sampling_seed_names_task_seed_prefix_and_replica() -> None:
    def seeds(**options: Any) -> list[int]:
        counting = Counting(SimulatedModel(0.0))
        run([arm("slm_only")], slm=counting, **options)
        return [r.seed for r in counting.requests]

    assert seeds() == seeds()
    assert len(set(seeds())) == 5
    assert not set(seeds()) & set(seeds(z=4))
    assert not set(seeds()) & set(seeds(replica=1))


def test_data_failures_are_outcomes() -> None:
    class Silent:
        async def sample(self, request: Request) -> Answer:
            return Answer((), "policy")

    class Full:
        async def sample(self, request: Request) -> Answer:
            raise ContextLimitReached("9 tokens exceed 8")

    [crashed], _ = run([arm("teacher_only")], env=Ladder(crash_at=3))
    assert (crashed.stop_reason, crashed.success, len(crashed.steps)) == (
        StopReason.ENV_ERROR,
        False,
        3,
    )
    assert "the ladder broke" in crashed.detail
    [silent], _ = run([arm("slm_only")], slm=Silent())
    assert (silent.stop_reason, silent.steps) == (StopReason.NO_ACTION, ())
    [full], _ = run([arm("slm_only")], slm=Full())
    assert (full.stop_reason, full.detail) == (StopReason.CONTEXT_LIMIT, "9 tokens exceed 8")
    [idle], _ = run([arm("slm_only")], slm=SimulatedModel(1.0))
    assert (idle.stop_reason, len(idle.steps)) == (StopReason.STEP_LIMIT, 12)


def test_an_oracle_or_a_replay_that_crashes_ends_the_episode_that_needed_it() -> None:
    class Mute(Ladder):
        def expert_action(self) -> str | None:
            if self._rung == 2:
                raise OSError("the oracle is gone")
            return "up"

    class Once(Ladder):
        def reset(self) -> tuple[str, dict[str, Any]]:
            if getattr(self, "_games", 0):
                raise OSError("no second game")
            return super().reset()

    [mute], _ = run([arm("teacher_only")], env=Mute())
    assert (mute.stop_reason, mute.detail) == (
        StopReason.ENV_ERROR,
        "OSError: the oracle is gone",
    )
    arms = [arm("teacher_only"), arm("slm_only")]
    won, again = run(arms, slm=SimulatedModel(1.0), env=Once())[0]
    assert won.stop_reason is StopReason.WON
    assert (again.stop_reason, again.detail) == (
        StopReason.ENV_ERROR,
        "OSError: no second game",
    )


def test_infrastructure_failures_are_raised_and_forgotten() -> None:
    class Flaky:
        calls = 0

        async def sample(self, request: Request) -> Answer:
            Flaky.calls += 1
            if Flaky.calls == 1:
                raise RuntimeFailure("gone")
            return Answer((Candidate("up"),), "policy")

    unit = Unit("evaluate", "hash", TASK, 0, 0, (arm("slm_only"),))
    tree, player = Tree(), ModelRole("slm", Flaky(), SAMPLING)
    with pytest.raises(RuntimeFailure, match="gone"):
        asyncio.run(play(TreeEnv(Ladder(), tree), unit, unit.arms[0], Models(player, player)))
    assert asyncio.run(
        play(TreeEnv(Ladder(), tree), unit, unit.arms[0], Models(player, player))
    ).success


def test_an_oracle_asked_on_the_way_says_the_same_and_saves_replays() -> None:
    class Seeded:
        async def sample(self, request: Request) -> Answer:
            return Answer((Candidate("up" if request.seed % 3 else "wait"),), "policy")

    arms = [
        arm("slm_only"),
        *(arm("random", rate) for rate in (0.2, 0.5, 0.8)),
        arm("teacher_only"),
    ]
    steps = [0, 0]
    for z in range(20):
        (late, tree), (early, told) = (
            run(arms, slm=Seeded(), z=z),
            run(arms, slm=Seeded(), z=z, expert=True),
        )
        assert early == late
        assert tree.oracles.items() <= told.oracles.items()
        steps = [steps[0] + tree.stepped, steps[1] + told.stepped]
    assert steps[1] < steps[0]


def test_drift_is_recorded_from_where_an_arm_needs_a_replay() -> None:
    (first, same, other), _ = run(
        [arm("slm_only"), arm("random", 0.0), arm("teacher_only")], env=Ladder(moody=True)
    )
    parted = next(i for i, step in enumerate(first.steps) if step.action == "wait")
    assert not any(s.drift for s in (*first.steps, *same.steps))
    assert [s.drift for s in other.steps] == [i >= parted for i in range(len(other.steps))]


def test_a_transition_is_made_once_whichever_arm_comes_first() -> None:
    arms = [
        arm("slm_only"),
        arm("random", 0.0),
        arm("random", 0.3),
        arm("random", 0.6),
        arm("teacher_only"),
    ]
    together, tree = run(arms)
    apart = [run([a])[0][0] for a in arms]
    assert [replace(e, key=a.key) for e, a in zip(together, apart, strict=True)] == apart
    prefixes = {s.prefix for e in together for s in e.steps}
    assert len(tree.transitions) <= len(prefixes) + len(arms)
    assert tree.stepped < sum(len(e.steps) for e in together)


def branch_of(
    episode: Episode, t: int, kind: str, router: str, replica: int = 0, **first: Any
) -> Branch:
    """A branch that leaves `episode` at step t."""
    path = tuple(TakenAction(s.actor, s.action, s.action_ids) for s in episode.steps[:t])
    return Branch(
        kind, arm(router), replica, path, stable_hash(episode.steps[t].observation), **first
    )


def test_a_branch_in_the_same_replica_repeats_the_path_and_another_replica_does_not() -> None:
    [episode], _ = run([arm("slm_only")])
    assert len(episode.steps) > 5
    first = TakenAction("slm", episode.steps[2].action)
    [same, *others], _ = run(
        [branch_of(episode, 2, "S", "slm_only", replica, first=first) for replica in range(9)]
    )
    assert [s.action for s in same.steps] == [s.action for s in episode.steps]
    assert same.success == episode.success
    assert [s.proposal is None for s in same.steps[:4]] == [True, True, True, False]
    assert {tuple(s.action for s in o.steps[:3]) for o in others} == {
        tuple(s.action for s in episode.steps[:3])
    }
    assert len({tuple(s.action for s in o.steps) for o in others}) > 3
    assert len({str(e.key) for e in (episode, same, *others)}) == 10
    assert not any(s.drift for e in (same, *others) for s in e.steps)


def test_the_teacher_takes_one_step_or_all_the_rest() -> None:
    [episode], _ = run([arm("slm_only")], slm=SimulatedModel(1.0))
    (one, rest), _ = run(
        [
            branch_of(episode, 3, "T1", "slm_only", teacher_first=True),
            branch_of(episode, 3, "Tinf", "teacher_only"),
        ],
        slm=SimulatedModel(1.0),
    )
    assert [s.actor for s in one.steps] == ["slm"] * 3 + ["teacher"] + ["slm"] * 8
    assert not one.success
    assert [s.actor for s in rest.steps] == ["slm"] * 3 + ["teacher"] * 5
    assert rest.success


def test_a_replay_that_shows_something_else_is_drift() -> None:
    [episode], _ = run([arm("slm_only")], env=Ladder(moody=True))
    [branch], _ = run([branch_of(episode, 2, "S", "slm_only")], env=Ladder(moody=True))
    assert [s.drift for s in branch.steps[:3]] == [False] * 3
    env = Ladder(moody=True)
    env.reset()
    [branch], _ = run([branch_of(episode, 2, "S", "slm_only")], env=env)
    assert [s.drift for s in branch.steps[:4]] == [False, False, True, False]


class Fondness:
    """A verifier that likes one action."""

    def __init__(self, liked: str) -> None:
        self.liked, self.asked = liked, 0

    async def score(
        self, history: Any, user: str, candidates: Sequence[Candidate]
    ) -> tuple[float, ...]:
        self.asked += 1
        return tuple(0.9 if c.text == self.liked else 0.1 for c in candidates)


def test_the_verifier_picks_among_the_candidates_except_for_a_single_sample() -> None:
    verifier, sampling = Fondness("up"), Sampling(n=5)
    models = Models(
        ModelRole("slm", SimulatedModel(0.7), sampling),
        ModelRole("teacher", ExpertModel(), SAMPLING),
        verifier,
    )
    unit, tree = Unit("evaluate", "hash", TASK, 3, 0, ()), Tree()

    async def all_arms() -> list[Episode]:
        return [
            await play(TreeEnv(Ladder(), tree), unit, a, models)
            for a in (arm("slm_only"), arm("best_of_k"), arm("random", 0.0))
        ]

    single, best, routed = asyncio.run(all_arms())
    assert [s.action for s in single.steps] == [
        s.proposal.candidates[0].text for s in single.steps if s.proposal
    ]
    assert all(s.verifier_scores == () for s in single.steps)
    for step in best.steps:
        assert step.proposal is not None
        texts = [c.text for c in step.proposal.candidates]
        assert step.action == ("up" if "up" in texts else texts[0])
        assert step.verifier_scores == tuple(0.9 if text == "up" else 0.1 for text in texts)
    assert [s.action for s in routed.steps] == [s.action for s in best.steps]
    assert verifier.asked == len(best.steps)


def test_verifier_and_heuristic_escalate_where_no_candidate_convinces() -> None:
    models = Models(
        ModelRole("slm", SimulatedModel(0.7), Sampling(n=2)),
        ModelRole("teacher", ExpertModel(), SAMPLING),
        Fondness("up"),
    )
    unit = Unit("evaluate", "hash", TASK, 3, 0, ())
    episode = asyncio.run(play(TreeEnv(Ladder(), Tree()), unit, arm("verifier", 0.5), models))
    assert {s.actor for s in episode.steps} == {"slm", "teacher"}
    assert [s.actor for s in episode.steps] == [
        "slm" if max(s.verifier_scores) > 0.5 else "teacher" for s in episode.steps
    ]
    assert episode.success
