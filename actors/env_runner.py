"""Plays units of work: many in flight, every arm of a (task, z) in turn, each along its own path in
the real environment.

The tree of a unit lives only while the unit runs. An episode leaves the runner finished or not at
all. A runner outlives the stages of a run: everything it knows of a stage comes with the unit.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from actors.env_pool import IdleEnvs
from actors.failures import UnitBroken
from actors.language_models.factory import build_model
from actors.language_models.tokenizer import load_tokenizer
from actors.language_models.vllm import EngineCall
from actors.totals import Totals
from actors.unit_clock import unit_deadline
from actors.verifier.client import ScorerCall, TrainedVerifier
from envs.make import perturbed
from envs.own import EnvSource
from envs.registry import load
from r2v_dist.agent.episode import ModelRole, Models, play
from r2v_dist.agent.tree import Tree, TreeEnv
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.config.verifier import VerifierConfig
from r2v_dist.episodes import Episode, Unit
from r2v_dist.errors import NodeFailure, RuntimeFailure, UsageError
from r2v_dist.language_model import Sampling
from r2v_dist.router.registry import NEVER_ASK, RouterModels
from r2v_dist.verifier.base import Verifier
from r2v_dist.verifier.llm_judge import JUDGE_TOKENS, JudgeVerifier

Deliver = Callable[[Sequence[Episode]], Awaitable[object]]


@dataclass(frozen=True)
class RunnerSetup:
    """Everything a runner needs to know; picklable."""

    slm: ModelConfig
    teacher: ModelConfig
    slm_tokenizer: str
    teacher_tokenizer: str
    perturb: PerturbConfig
    unit_timeout_s: float
    engine_wait_s: float = 600.0
    """Longest wait while no engine of a role is there, in seconds."""
    env_deadline_s: float = 120.0
    environment: EnvSource = field(default_factory=lambda: EnvSource("textworld"))
    """What `env.kind` names; the runner loads it, as runners may be on another machine."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)


@dataclass(frozen=True)
class Deployment:
    """What a runner gets once it has been trained: the verifier, and routers that arms may name."""

    verifier: VerifierConfig | None
    scorers: Sequence[ScorerCall] | None
    """Reach the replicas of the trained verifier."""
    models: RouterModels = field(default_factory=RouterModels)


class EnvRunner:
    """Runs units. Used as an async Ray actor; runs as well inside one event loop without Ray."""

    def __init__(
        self,
        setup: RunnerSetup,
        slm_calls: Sequence[EngineCall] | None,
        teacher_calls: Sequence[EngineCall] | None,
        deployment: Deployment | None = None,
    ) -> None:
        self._setup = setup
        load(setup.environment)
        wait_s = setup.engine_wait_s
        slm = _role("slm", setup.slm, slm_calls, setup.slm_tokenizer, wait_s)
        teacher = _role("teacher", setup.teacher, teacher_calls, setup.teacher_tokenizer, wait_s)
        self._models = Models(slm, teacher)
        self._idle = IdleEnvs()
        if deployment is not None:
            self.deploy(deployment)

    def deploy(self, deployment: Deployment) -> None:
        """Take it into use. No unit may be under way."""
        self._models = replace(
            self._models, verifier=self._verifier(deployment), routers=deployment.models
        )

    async def run(self, unit: Unit, deliver: Deliver) -> Totals:
        """Play every arm and branch of the unit and deliver the episodes.

        Raises RuntimeFailure when a back end fails, or is what the unit waits for at its deadline:
        the unit is to be run again. Raises UnitBroken where its environment cannot be made or
        reset, is what it waits for, or finds its machine without what it needs.
        """
        tree = Tree()
        episodes = list[Episode]()
        try:
            async with unit_deadline(self._setup.unit_timeout_s):
                expert = self._needs_expert(unit)
                with self._world(unit, tree, expert) as world:
                    for run in unit.runs:
                        episodes.append(await play(world, unit, run, self._models))
        except TimeoutError:
            late = f"unit {unit.task.id} z={unit.z} ran past {self._setup.unit_timeout_s:g} s"
            if tree.waits_for:
                raise RuntimeFailure(f"{late}; it waits for the {tree.waits_for}") from None
            raise UnitBroken(late) from None
        except NodeFailure as failure:
            raise UnitBroken(str(failure)) from None
        finally:
            tree.abandon()
        self._check_versions(unit, tree)
        await deliver(episodes)
        # The environment's own oracle answers without a model.
        models = {"slm": self._setup.slm, "teacher": self._setup.teacher}
        roles = [role for role, config in models.items() if config.backend != "expert"]
        answers = [answer for role in roles for answer in tree.answered(role)]
        return Totals(
            units=1,
            episodes=len(episodes),
            successes=sum(e.success for e in episodes),
            steps=sum(len(e.steps) for e in episodes),
            asked=sum(tree.asked[role] for role in roles),
            engine_calls=len(answers),
            sampled_tokens=sum(a.sampled_tokens for a in answers),
            drifted=sum(s.drift for e in episodes for s in e.steps),
            **self._judged(),
        )

    def _judged(self) -> dict[str, int]:
        """What the judge has counted since the last unit, if there is one."""
        verifier = self._models.verifier
        return verifier.take_counts() if isinstance(verifier, JudgeVerifier) else {}

    def _needs_expert(self, unit: Unit) -> bool:
        """Tracking the hidden state doubles the cost of a step; without an oracle to answer it is
        left out.
        """
        teacher_acts = any(arm.router not in NEVER_ASK for arm in unit.played) or any(
            b.teacher_first for b in unit.branches
        )
        oracles = {self._setup.slm.backend, self._setup.teacher.backend if teacher_acts else ""}
        return bool(oracles & {"expert", "simulated"})

    @contextlib.contextmanager
    def _world(self, unit: Unit, tree: Tree, expert: bool) -> Iterator[TreeEnv]:
        """The environment, made and reset."""
        with contextlib.ExitStack() as stack:
            try:
                bare = stack.enter_context(self._idle.borrow(unit.task, expert))
                env = perturbed(bare, unit.task, unit.z, self._setup.perturb)
                world = TreeEnv(env, tree, expert)
                world.reset()
            except UsageError:
                raise
            # A boundary: whatever it raises, the unit may be played where it does not.
            except Exception as error:
                raise UnitBroken(f"{type(error).__name__}: {error}") from error
            yield world

    def _verifier(self, deployment: Deployment) -> Verifier | None:
        setup = self._setup
        return verifier_of(
            deployment,
            setup.slm,
            setup.slm_tokenizer,
            setup.environment,
            setup.sandbox,
            setup.engine_wait_s,
        )

    def _check_versions(self, unit: Unit, tree: Tree) -> None:
        """A row must never name a policy that did not act."""
        version_by_role = {"slm": unit.played[0].policy, "teacher": unit.played[0].teacher}
        for role, unit_version in version_by_role.items():
            for version in {answer.version for answer in tree.answered(role)} - {unit_version}:
                raise RuntimeFailure(
                    f"the {role} answered as version {version}, this unit needs {unit_version}"
                )


def verifier_of(
    deployment: Deployment,
    slm: ModelConfig,
    slm_tokenizer: str,
    environment: EnvSource,
    sandbox: SandboxConfig,
    engine_wait_s: float,
) -> Verifier | None:
    """The verifier of a deployment, as whoever asks it sees it; None without one."""
    config = deployment.verifier
    if config is None:
        return None
    if config.kind == "rules":
        rules = load(environment).rules
        assert rules is not None
        return rules(sandbox)
    if config.kind == "judge":
        assert config.judge is not None
        model = build_model(config.judge, "judge", None, "")
        most_tokens = max(JUDGE_TOKENS, config.judge.sampling.max_tokens)
        return JudgeVerifier(model, config.attempts, most_tokens)
    assert deployment.scorers
    tokenizer = load_tokenizer(slm_tokenizer)
    settings = slm.chat_template_kwargs
    return TrainedVerifier(
        deployment.scorers, tokenizer, slm.system_prompt, engine_wait_s, settings
    )


def _role(
    role: str,
    config: ModelConfig,
    calls: Sequence[EngineCall] | None,
    tokenizer: str,
    engine_wait_s: float,
) -> ModelRole:
    settings = config.sampling
    sampling = Sampling(
        settings.candidates, settings.temperature, settings.top_p, settings.max_tokens
    )
    model = build_model(config, role, calls, tokenizer, engine_wait_s)
    return ModelRole(role, model, sampling)
