"""The agent loop: decide, act, again: one episode along one router's own path through the tree of
its (task, z).

Plain asyncio, no Ray: the same function runs in an env runner and in a test with no cluster; the
gateway shares its decision, `step.decide`. A bad action or an env crash ends the episode with a
`StopReason`; only an infrastructure failure is raised.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from r2v_dist.agent.step import StepDecision, chosen_index, decide
from r2v_dist.agent.tree import EnvCrash, Transition, TreeEnv
from r2v_dist.chat import Turn, opening_message
from r2v_dist.episodes import Arm, Branch, Episode, Step, StopReason, TakenAction, Unit
from r2v_dist.errors import RuntimeFailure, node_failure
from r2v_dist.language_model import (
    Answer,
    Candidate,
    ContextLimitReached,
    LanguageModel,
    Request,
    Sampling,
)
from r2v_dist.messages import Heard, Message, Messages, ToolCall, read_action, with_text
from r2v_dist.router.names import ORACLE
from r2v_dist.router.registry import SINGLE_SAMPLE, RouterModels, build_router
from r2v_dist.router.step_context import StepContext
from r2v_dist.seeding import stable_hash
from r2v_dist.verifier.base import Verifier

ORACLE_REPLICAS = 10_000
"""First replica of the oracle's branches: a range that no label and no evaluation uses."""


@dataclass(frozen=True)
class ModelRole:
    """A language model in its role, and how it is sampled."""

    role: str
    model: LanguageModel
    sampling: Sampling


@dataclass(frozen=True)
class Models:
    """Who plays: both models, the verifier that picks among the SLM's candidates, and the trained
    routers that arms may name.
    """

    slm: ModelRole
    teacher: ModelRole
    verifier: Verifier | None = None
    routers: RouterModels = field(default_factory=RouterModels)


async def play(world: TreeEnv, unit: Unit, run: Arm | Branch, models: Models) -> Episode:
    """Play one episode, or one branch of an earlier one, to its end, through the tree of its unit.

    Raises RuntimeFailure when a model back end fails; the caller retries the whole unit elsewhere.
    """
    return await _EpisodeRunner(world, unit, run, models).play()


@dataclass(frozen=True)
class _End:
    """Why an episode is over, and whether it was won."""

    reason: StopReason
    success: bool = False
    detail: str = ""


class _EpisodeRunner:
    """Runs one episode or branch: propose, verify, route, act, until it ends."""

    def __init__(self, world: TreeEnv, unit: Unit, run: Arm | Branch, models: Models) -> None:
        self.world = world
        self.unit = unit
        self.run = run
        self.models = models
        self.branch = run if isinstance(run, Branch) else None
        self.arm = run.arm if isinstance(run, Branch) else run
        self.replica = run.replica if isinstance(run, Branch) else unit.replica
        self.router = build_router(
            self.arm.router, self.arm.threshold, models.routers, self.arm.training_seed
        )
        self.slm = models.slm
        if self.branch and self.arm.router in SINGLE_SAMPLE:
            # Nobody will look at the other candidates.
            self.slm = replace(models.slm, sampling=replace(models.slm.sampling, n=1))
        self.steps: list[Step] = []
        self.now = world.reset()
        self.goal = str(self.now.info["goal"])
        self.user = _heard(self.now, opening_message(self.goal, self.now.observation))
        self.history = tuple[Turn, ...]()

    async def play(self) -> Episode:
        """Step until the environment, a limit or an error ends it."""
        end = None
        while end is None:
            end = await self._step()
        return Episode(
            key=self.unit.key(self.run),
            split=self.unit.task.split,
            arm=self.arm,
            goal=self.goal,
            steps=tuple(self.steps),
            success=end.success,
            stop_reason=end.reason,
            final_observation=self.now.observation,
            detail=end.detail,
            branch=self.branch,
        )

    async def _step(self) -> _End | None:
        """Decide and act once. How the episode ended with that, None where it goes on."""
        drift = self._drifted()
        try:
            choice = await self._choose(self._context())
        except ContextLimitReached as limit:
            return _End(StopReason.CONTEXT_LIMIT, detail=str(limit))
        except EnvCrash as crash:
            return _End(StopReason.ENV_ERROR, detail=str(crash))
        if choice.chosen is None:
            return _End(StopReason.NO_ACTION, detail=f"the {choice.actor} gave no action")
        step = _step(choice, self.now, self.world.prefix, drift)
        try:
            now = await self.world.astep(step.action)
        except RuntimeFailure:
            raise
        # a boundary: whatever one task's environment raises is that episode's outcome
        except Exception as error:
            if (failure := node_failure(error)) is not None:
                raise failure from error
            self.steps.append(step)
            return _End(StopReason.ENV_ERROR, detail=f"{type(error).__name__}: {error}")
        self._advance(step, choice.chosen, now)
        if now.terminated or now.truncated:
            return _End(StopReason(now.info["stop_reason"]), success=now.reward > 0)
        return None

    def _drifted(self) -> bool:
        """Whether a branch leaves its path from another observation than it was made for."""
        branch = self.branch
        if branch is None or len(self.steps) != len(branch.path):
            return False
        return stable_hash(self.now.observation) != branch.observation_hash

    async def _choose(self, context: StepContext) -> StepDecision:
        """The step's decision; a branch knows its first actions beforehand."""
        branch = self.branch
        if branch and (step := branch.given(context.t)):
            return StepDecision(step.actor, Candidate(step.action, step.action_ids))
        if branch and branch.teacher_first and context.t == len(branch.path):
            return StepDecision.of_teacher(await self.teach())
        if self.arm.router == ORACLE:
            context = replace(context, true_risk=await self._true_risk())
        return await decide(self.router, context, self)

    async def propose(self) -> Answer:
        """The SLM's candidates at this state, from memory where the tree knows them."""
        return await self._ask(self.slm)

    async def teach(self) -> Answer:
        """The teacher's answer at this state, from memory where the tree knows it."""
        return await self._ask(self.models.teacher)

    async def _true_risk(self) -> float:
        proposal = await self.propose()
        index = chosen_index(proposal, await self.verify(proposal))
        action = None if index is None else proposal.candidates[index]
        return await _true_risk(self.world, self.unit, self.arm, self.models, self.steps, action)

    async def _ask(self, actor: ModelRole) -> Answer:
        world = self.world
        place = (self.unit.task.id, self.unit.z, world.prefix, self.replica)
        request = Request(
            self.history,
            self.user,
            actor.sampling,
            stable_hash(*place, actor.role) % 2**31,
            world.expert_action,
            world.wrong_action,
            perturbed=bool(self.now.info["perturbations"]),
        )
        key = (world.prefix, self.replica, actor.sampling)
        return await world.tree.answer(actor.role, key, lambda: actor.model.sample(request))

    async def verify(self, proposal: Answer) -> tuple[float, ...]:
        """The verifier's scores of the candidates; none where the SLM acts with one sample."""
        verifier = self.models.verifier
        if verifier is None or self.arm.router in SINGLE_SAMPLE:
            return ()
        key = (self.world.prefix, self.replica, self.slm.sampling)
        return await self.world.tree.score(
            key, lambda: verifier.score(self.history, self.user, proposal.candidates)
        )

    def _context(self) -> StepContext:
        return StepContext(
            t=len(self.steps),
            draw=(self.unit.task.id, self.unit.z, len(self.steps)),
            goal=self.goal,
            observations=(*(s.observation for s in self.steps), self.now.observation),
            actions=tuple(s.action for s in self.steps),
            escalations=sum(s.actor == "teacher" for s in self.steps),
            max_steps=self.unit.task.max_steps,
            budget=self.models.routers.budgets.get(self.arm.router),
            verifier_bests=tuple(max(s.verifier_scores, default=math.nan) for s in self.steps),
            actors=tuple(s.actor for s in self.steps),
            scores=tuple(s.score for s in self.steps),
            prompt_tokens=tuple(s.proposal.prompt_tokens if s.proposal else 0 for s in self.steps),
        )

    def _advance(self, step: Step, chosen: Candidate, now: Transition) -> None:
        self.steps.append(
            replace(step, executed=bool(now.info["executed"]), drift=step.drift or self.world.drift)
        )
        content, calls = chosen.content, chosen.calls
        if not calls and "<tool_call>" in chosen.text:
            content, calls = read_action(chosen.text)
        turn = Turn(self.user, chosen.text, step.actor, chosen.token_ids, calls, content)
        self.history = (*self.history, turn)
        self.user = _heard(now, now.observation, calls)
        self.now = now


async def _true_risk(
    world: TreeEnv,
    unit: Unit,
    arm: Arm,
    models: Models,
    steps: Sequence[Step],
    action: Candidate | None,
) -> float:
    """The share of independent branches that fail when the SLM takes this action here and goes on
    alone as it is deployed.
    """
    if action is None:
        return 1.0
    prefix = world.prefix
    if prefix not in world.tree.risks:
        router = "slm_only" if models.verifier is None else "best_of_k"
        slm_only = replace(arm, router=router, threshold=None)
        path = tuple(TakenAction(s.actor, s.action, s.action_ids) for s in steps)
        first = TakenAction("slm", action.text, action.token_ids)
        observation_hash = stable_hash(world.tree.transitions[prefix].observation)
        failures = []
        for replica in range(ORACLE_REPLICAS, ORACLE_REPLICAS + models.routers.oracle_branches):
            branch = Branch(ORACLE, slm_only, replica, path, observation_hash, first=first)
            failures.append(not (await play(world, unit, branch, models)).success)
        world.tree.risks[prefix] = fmean(failures)
        world.reset()
        for step in steps:  # back to where this arm was, from memory
            world.step(step.action)
    return world.tree.risks[prefix]


def _heard(now: Transition, text: str, calls: tuple[ToolCall, ...] = ()) -> Heard:
    """What the agent hears: the text, or the messages that an environment gives beside it. A call
    that a fault kept from its tool is answered as a tool answers."""
    messages: Heard | None = now.info.get("heard")
    if messages is not None:
        return with_text(messages, now.observation)
    if calls and not now.info["executed"]:
        return Messages(tuple(Message("tool", text, call) for call in calls))
    return text


def _step(choice: StepDecision, now: Transition, prefix: int, drift: bool) -> Step:
    assert choice.chosen is not None
    return Step(
        observation=now.observation,
        clean_observation=now.info["clean_observation"],
        perturbations=tuple(now.info["perturbations"]),
        actor=choice.actor,
        action=choice.chosen.text,
        action_ids=choice.chosen.token_ids,
        executed=True,
        score=choice.score,
        proposal=choice.proposal,
        teacher_tokens=choice.teacher_tokens,
        prefix=prefix,
        drift=drift,
        verifier_scores=choice.verifier_scores,
        chosen_index=choice.chosen_index,
    )
