"""The agent loop: propose -> route -> act, one episode along one router's own path through the tree of its (task, z).

Plain asyncio, no Ray: the same function runs in an env runner, in a test with no cluster, and behind a gateway. A bad
action or an env crash ends the episode with a `StopReason`; only an infrastructure failure is raised.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from r2v_dist.chat import Turn, opening_message
from r2v_dist.episodes import Arm, Episode, Step, StopReason, Unit
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import Answer, Candidate, ContextLimitReached, LanguageModel, Request, Sampling
from r2v_dist.routers import Situation, build_router
from r2v_dist.seeding import stable_hash


class AgentEnv(Protocol):
    """The part of a (perturbed) Gymnasium environment used here."""

    def reset(self) -> tuple[str, dict[str, Any]]: ...

    def step(self, action: str, /) -> tuple[str, float, bool, bool, dict[str, Any]]: ...

    def expert_action(self) -> str | None: ...


@dataclass(frozen=True)
class Player:
    """A language model in its role, and how it is sampled."""

    role: str
    model: LanguageModel
    sampling: Sampling


@dataclass
class Tree:
    """What is already known of one (task, z): answers by (role, prefix, replica, sampling), observations by prefix.

    Concurrent arms that ask the same question share one call. Dropped when the unit's episodes are committed.
    """

    answers: dict[tuple[object, ...], asyncio.Task[Answer]] = field(default_factory=dict)
    observations: dict[int, int] = field(default_factory=dict)
    asked: int = 0

    async def answer(self, key: tuple[object, ...], ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The memoised answer; a failed call is forgotten, so that a retry asks again."""
        self.asked += 1
        task = self.answers.get(key)
        if task is None:
            task = self.answers[key] = asyncio.ensure_future(ask())
        try:
            return await asyncio.shield(task)
        except BaseException:
            self.answers.pop(key, None)
            raise

    def drifted(self, prefix: int, observation: str) -> bool:
        """True when the same prefix was seen to lead to another observation."""
        seen = stable_hash(observation)
        return self.observations.setdefault(prefix, seen) != seen


@dataclass
class _Path:
    """Where an episode is: its history and the hash of its action prefix."""

    user: str
    history: tuple[Turn, ...] = ()
    prefix: int = 0

    def advance(self, actor: str, candidate: Candidate, observation: str) -> None:
        turn = Turn(self.user, candidate.text, actor, candidate.token_ids)
        self.history = (*self.history, turn)
        self.prefix = stable_hash(self.prefix, candidate.text)
        self.user = observation


async def play(env: AgentEnv, unit: Unit, arm: Arm, slm: Player | None, teacher: Player, tree: Tree) -> Episode:
    """Play one episode to its end. Without an SLM only routers that always escalate can be played.

    Raises RuntimeFailure when a model back end fails; the caller retries the whole unit elsewhere.
    """
    router = build_router(arm.router, arm.threshold)
    observation, info = env.reset()
    path = _Path(opening_message(info["goal"], observation))
    goal, steps, detail = str(info["goal"]), list[Step](), ""

    async def ask(player: Player | None) -> Answer:
        assert player is not None
        seed = stable_hash(unit.task.id, unit.z, path.prefix, unit.replica, player.role) % 2**31
        saboteur = getattr(env, "wrong_action", None)  # optional: few environments know their wrong actions
        request = Request(path.history, path.user, player.sampling, seed, env.expert_action, saboteur, bool(info["perturbations"]))
        key = (player.role, path.prefix, unit.replica, player.sampling)
        return await tree.answer(key, lambda: player.model.sample(request))

    while True:
        drift = tree.drifted(path.prefix, observation)
        situation = Situation(len(steps), (unit.task.id, unit.z, len(steps)))
        try:
            proposal = await ask(slm) if router.uses_proposal else None
            decision = router.decide(situation, proposal)
            if not decision.escalate and proposal is None:
                proposal = await ask(slm)
            acted = await ask(teacher) if decision.escalate else proposal
        except ContextLimitReached as limit:
            stop, success, detail = StopReason.CONTEXT_LIMIT, False, str(limit)
            break
        assert acted is not None
        if not acted.candidates:
            stop, success = StopReason.NO_ACTION, False
            break
        actor, chosen = ("teacher" if decision.escalate else "slm"), acted.candidates[0]
        step = Step(
            observation=observation,
            clean_observation=info["clean_observation"],
            perturbations=tuple(info["perturbations"]),
            actor=actor,
            action=chosen.text,
            action_ids=chosen.token_ids,
            executed=True,
            score=decision.score,
            proposal=proposal,
            teacher_tokens=acted.sampled_tokens if decision.escalate else 0,
            prefix=path.prefix,
            drift=drift,
        )
        try:
            observation, reward, terminated, truncated, info = env.step(chosen.text)
        except RuntimeFailure:
            raise
        except Exception as error:  # a boundary: whatever one task's environment raises is that episode's outcome
            steps.append(step)
            stop, success, detail = StopReason.ENV_ERROR, False, f"{type(error).__name__}: {error}"
            break
        steps.append(replace(step, executed=bool(info["executed"])))
        path.advance(actor, chosen, observation)
        if terminated or truncated:
            stop, success = StopReason(info["stop_reason"]), reward > 0
            break
    return Episode(unit.key(arm), unit.task.split, arm, goal, tuple(steps), success, stop, observation, detail)
