"""The agent loop: propose -> verify -> route -> act, one episode along one router's own path through the tree of its (task, z).

Plain asyncio, no Ray: the same function runs in an env runner, in a test with no cluster, and behind a gateway. A bad
action or an env crash ends the episode with a `StopReason`; only an infrastructure failure is raised.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from r2v_dist.chat import Turn, opening_message
from r2v_dist.config import ORACLE
from r2v_dist.episodes import Arm, Branch, Episode, Step, StopReason, Taken, Unit
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import Answer, Candidate, ContextLimitReached, LanguageModel, Request, Sampling
from r2v_dist.routers import SINGLE_SAMPLE, RouterModels, build_router
from r2v_dist.seeding import stable_hash
from r2v_dist.situation import Situation
from r2v_dist.tree import Transition, TreeEnv
from r2v_dist.verifier import Verifier, preferred

ORACLE_REPLICAS = 10_000
"""First replica of the oracle's branches: a range that no label and no evaluation uses."""


@dataclass(frozen=True)
class Player:
    """A language model in its role, and how it is sampled."""

    role: str
    model: LanguageModel
    sampling: Sampling


@dataclass(frozen=True)
class Cast:
    """Who plays: both models, the verifier that picks among the SLM's candidates, and the trained routers that arms may name."""

    slm: Player
    teacher: Player
    verifier: Verifier | None = None
    models: RouterModels = field(default_factory=RouterModels)


@dataclass
class _Path:
    """What was said so far, and the latest message."""

    user: str
    history: tuple[Turn, ...] = ()

    def advance(self, actor: str, candidate: Candidate, observation: str) -> None:
        self.history = (*self.history, Turn(self.user, candidate.text, actor, candidate.token_ids))
        self.user = observation


async def play(world: TreeEnv, unit: Unit, run: Arm | Branch, cast: Cast) -> Episode:
    """Play one episode, or one branch of an earlier one, to its end, through the tree of its unit.

    Raises RuntimeFailure when a model back end fails; the caller retries the whole unit elsewhere.
    """
    branch, arm, replica = (run, run.arm, run.replica) if isinstance(run, Branch) else (None, run, unit.replica)
    router = build_router(arm.router, arm.threshold, cast.models, arm.training_seed)
    slm = cast.slm
    if branch and arm.router in SINGLE_SAMPLE:  # nobody will look at the other candidates
        slm = replace(slm, sampling=replace(slm.sampling, n=1))
    tree, now = world.tree, world.reset()
    goal, steps, detail = str(now.info["goal"]), list[Step](), ""
    path = _Path(opening_message(goal, now.observation))

    async def ask(player: Player) -> Answer:
        seed = stable_hash(unit.task.id, unit.z, world.prefix, replica, player.role) % 2**31
        perturbed = bool(now.info["perturbations"])
        request = Request(path.history, path.user, player.sampling, seed, world.expert_action, world.wrong_action, perturbed)
        key = (world.prefix, replica, player.sampling)
        return await tree.answer(player.role, key, lambda: player.model.sample(request))

    async def verify(proposal: Answer) -> tuple[float, ...]:
        if cast.verifier is None or arm.router in SINGLE_SAMPLE:
            return ()
        verifier = cast.verifier
        key = (world.prefix, replica, slm.sampling)
        return await tree.score(key, lambda: verifier.score(path.history, path.user, proposal.candidates))

    async def choose(situation: Situation) -> _Choice:
        if branch and (given := branch.given(situation.t)):
            return _Choice(given.actor, Candidate(given.action, given.action_ids))
        if branch and branch.teacher_first and situation.t == len(branch.path):
            return _Choice.of("teacher", await ask(cast.teacher))
        proposal = await ask(slm) if router.needs_proposal(situation) else None
        scores = await verify(proposal) if proposal else ()
        situation = replace(situation, verifier_scores=scores)
        if arm.router == ORACLE and proposal is not None:
            action = proposal.candidates[preferred(scores)] if proposal.candidates else None
            situation = replace(situation, true_risk=await _true_risk(world, unit, arm, cast, steps, action))
        decision = router.decide(situation, proposal)
        if decision.escalate:
            return replace(_Choice.of("teacher", await ask(cast.teacher)), proposal=proposal, verifier_scores=scores, score=decision.score)
        if proposal is None:
            proposal = await ask(slm)
            scores = await verify(proposal)
        return replace(_Choice.of("slm", proposal, preferred(scores)), proposal=proposal, verifier_scores=scores, score=decision.score)

    budget = cast.models.budgets.get(arm.router)
    while True:
        at_branch = branch is not None and len(steps) == len(branch.path)
        drift = at_branch and branch is not None and stable_hash(now.observation) != branch.seen
        try:
            choice = await choose(_situation(unit, goal, steps, now.observation, budget))
        except ContextLimitReached as limit:
            stop, success, detail = StopReason.CONTEXT_LIMIT, False, str(limit)
            break
        if choice.chosen is None:
            stop, success = StopReason.NO_ACTION, False
            break
        step = _step(choice, now, world.prefix, drift)
        try:
            now = await world.astep(step.action)
        except RuntimeFailure:
            raise
        except Exception as error:  # a boundary: whatever one task's environment raises is that episode's outcome
            steps.append(step)
            stop, success, detail = StopReason.ENV_ERROR, False, f"{type(error).__name__}: {error}"
            break
        steps.append(replace(step, executed=bool(now.info["executed"]), drift=drift or world.drift))
        path.advance(choice.actor, choice.chosen, now.observation)
        if now.terminated or now.truncated:
            stop, success = StopReason(now.info["stop_reason"]), now.reward > 0
            break
    return Episode(unit.key(run), unit.task.split, arm, goal, tuple(steps), success, stop, now.observation, detail, branch)


async def _true_risk(world: TreeEnv, unit: Unit, arm: Arm, cast: Cast, steps: Sequence[Step], action: Candidate | None) -> float:
    """The share of independent branches that fail when the SLM takes this action here and goes on alone as it is deployed."""
    if action is None:
        return 1.0
    here = world.prefix
    if here not in world.tree.risks:
        alone = replace(arm, router="slm_only" if cast.verifier is None else "best_of_k", threshold=None)
        path, first = tuple(Taken(s.actor, s.action, s.action_ids) for s in steps), Taken("slm", action.text, action.token_ids)
        seen = stable_hash(world.tree.transitions[here].observation)
        replicas = range(ORACLE_REPLICAS, ORACLE_REPLICAS + cast.models.oracle_branches)
        branches = [Branch(ORACLE, alone, replica, path, seen, first=first) for replica in replicas]
        world.tree.risks[here] = fmean([not (await play(world, unit, branch, cast)).success for branch in branches])
        world.reset()
        for step in steps:  # back to where this arm was, from memory
            world.step(step.action)
    return world.tree.risks[here]


@dataclass(frozen=True)
class _Choice:
    """Who acts and how; `chosen` is None where an actor has no action to offer."""

    actor: str
    chosen: Candidate | None
    teacher_tokens: int = 0
    proposal: Answer | None = None
    verifier_scores: tuple[float, ...] = ()
    score: float | None = None

    @classmethod
    def of(cls, actor: str, answer: Answer, index: int = 0) -> "_Choice":
        return cls(actor, answer.candidates[index] if answer.candidates else None, answer.sampled_tokens if actor == "teacher" else 0)


def _step(choice: _Choice, now: Transition, prefix: int, drift: bool) -> Step:
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
    )


def _situation(unit: Unit, goal: str, steps: Sequence[Step], observation: str, budget: int | None) -> Situation:
    limit = dict(unit.task.env_kwargs).get("max_steps")
    return Situation(
        t=len(steps),
        draw=(unit.task.id, unit.z, len(steps)),
        goal=goal,
        observations=(*(s.observation for s in steps), observation),
        actions=tuple(s.action for s in steps),
        escalations=sum(s.actor == "teacher" for s in steps),
        max_steps=None if limit is None else int(limit),
        budget=budget,
        verifier_bests=tuple(max(s.verifier_scores, default=math.nan) for s in steps),
    )
