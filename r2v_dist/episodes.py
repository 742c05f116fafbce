"""The nouns of a rollout: task, unit of work, step, episode. Frozen, picklable, and free of any
engine.
"""

from collections.abc import Container
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import reduce

from r2v_dist.language_model import Answer
from r2v_dist.seeding import short_hash, stable_hash


class StopReason(StrEnum):
    """Why an episode ended. The last four are data failures: rows, never crashes."""

    WON = "won"
    LOST = "lost"
    STEP_LIMIT = "step_limit"
    CONTEXT_LIMIT = "context_limit"
    NO_ACTION = "no_action"
    ENV_ERROR = "env_error"
    QUARANTINED = "quarantined"
    """Never played to an end: again and again its environment did not start, hung, or took its
    process along.
    """


@dataclass(frozen=True)
class Task:
    """One problem of a benchmark: `env_kwargs` are what `gymnasium.make` gets beside the env's
    name.
    """

    id: str
    split: str
    env: str
    env_kwargs: tuple[tuple[str, str | int | bool], ...]

    @property
    def max_steps(self) -> int | None:
        """Steps after which an episode is cut off, as the environment was told; None for its own
        default.
        """
        limit = dict(self.env_kwargs).get("max_steps")
        return None if limit is None else int(limit)


@dataclass(frozen=True)
class Arm:
    """A router at one operating point, with the versions of everything that decides: what a result
    belongs to.
    """

    router: str
    threshold: float | None
    policy: str
    teacher: str
    training_seed: int
    verifier: str = ""

    @property
    def id(self) -> str:
        """Readable and unique within a run."""
        at = "" if self.threshold is None else f"@{self.threshold:.6g}"
        verifier = f"/{self.verifier}" if self.verifier else ""
        return f"{self.router}{at}/{self.policy}/{self.teacher}/{self.training_seed}{verifier}"


def next_prefix(prefix: int, action: str) -> int:
    """The hash of an action prefix with one more action; that of no action is 0."""
    return stable_hash(prefix, action)


@dataclass(frozen=True)
class TakenAction:
    """An action somebody took, or is made to take."""

    actor: str
    action: str
    action_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Branch:
    """Another continuation from a state of an earlier path (docs/method.md, section 6).

    The path's actions are replayed, then comes the first action, then the arm's router decides.
    `first` is an action to take there, `teacher_first` has the teacher asked for it; with neither
    the router decides there too. `observation_hash` is of the observation in that state: a replay
    that shows something else is drift. `kind` is the name that labels are counted under.
    """

    kind: str
    arm: Arm
    replica: int
    path: tuple[TakenAction, ...]
    observation_hash: int
    first: TakenAction | None = None
    teacher_first: bool = False

    @property
    def prefix(self) -> int:
        """Hash of the path's actions, as the agent loop makes it."""
        return reduce(next_prefix, (step.action for step in self.path), 0)

    def given(self, t: int) -> TakenAction | None:
        """The action that is fixed at step t, if there is one."""
        if t < len(self.path):
            return self.path[t]
        return self.first if t == len(self.path) else None

    @property
    def id(self) -> str:
        """Unique among the branches of one (task, z), arm and replica."""
        actions = short_hash(*(step.action for step in self.path))
        first = "" if self.first is None else f":{short_hash(self.first.action)}"
        return f"{self.kind}:{len(self.path)}:{actions}{first}"


@dataclass(frozen=True)
class EpisodeKey:
    """Names an episode for ever: a committed key is never run again."""

    stage: str
    config_hash: str
    task: str
    z: int | None
    arm: str
    replica: int
    branch: str = ""

    def __str__(self) -> str:
        z = "clean" if self.z is None else self.z
        branch = f"|{self.branch}" if self.branch else ""
        return f"{self.stage}|{self.config_hash}|{self.task}|{z}|{self.arm}|{self.replica}{branch}"


@dataclass(frozen=True, slots=True)
class Unit:
    """All arms and branches of one (task, z): they run on one runner, share one tree, and each
    commits an episode of its own.
    """

    stage: str
    config_hash: str
    task: Task
    z: int | None
    replica: int
    arms: tuple[Arm, ...]
    branches: tuple[Branch, ...] = ()

    def key(self, run: Arm | Branch) -> EpisodeKey:
        """The key of this unit's episode under an arm, or of one of its branches."""
        identity = (self.stage, self.config_hash, self.task.id, self.z)
        if isinstance(run, Branch):
            return EpisodeKey(*identity, run.arm.id, run.replica, run.id)
        return EpisodeKey(*identity, run.id, self.replica)

    def without(self, done: Container[str]) -> "Unit":
        """This unit with only the runs whose keys are not among those that are done; itself where
        none is, so that units go on sharing their arms.
        """
        arms = tuple(arm for arm in self.arms if str(self.key(arm)) not in done)
        branches = tuple(branch for branch in self.branches if str(self.key(branch)) not in done)
        if (len(arms), len(branches)) == (len(self.arms), len(self.branches)):
            return self
        return replace(self, arms=arms, branches=branches)

    @property
    def played(self) -> tuple[Arm, ...]:
        """The arms at work, branches' included. All of a unit name the same versions of policy and
        teacher.
        """
        return (*self.arms, *(branch.arm for branch in self.branches))

    @property
    def runs(self) -> tuple["Arm | Branch", ...]:
        """Everything to play."""
        return (*self.arms, *self.branches)


@dataclass(frozen=True)
class Step:
    """One decision and what came of it. `observation` is what the agent saw before acting;
    `verifier_scores` are those of the proposal's candidates, in their order, empty where nothing
    was scored; `chosen_index` is the candidate that acts if the SLM does, None without a candidate.
    """

    observation: str
    clean_observation: str
    perturbations: tuple[str, ...]
    actor: str
    action: str
    action_ids: tuple[int, ...] | None
    executed: bool
    score: float | None
    proposal: Answer | None
    teacher_tokens: int
    prefix: int
    drift: bool
    verifier_scores: tuple[float, ...] = ()
    chosen_index: int | None = None


@dataclass(frozen=True)
class Episode:
    """A finished episode."""

    key: EpisodeKey
    split: str
    arm: Arm
    goal: str
    steps: tuple[Step, ...]
    success: bool
    stop_reason: StopReason
    final_observation: str
    detail: str = ""
    branch: Branch | None = None
