"""The nouns of a rollout: task, unit of work, step, episode. Frozen, picklable, and free of any engine."""

from dataclasses import dataclass
from enum import StrEnum

from r2v_dist.language_model import Answer


class StopReason(StrEnum):
    """Why an episode ended. The last three are data failures: rows, never crashes."""

    WON = "won"
    LOST = "lost"
    STEP_LIMIT = "step_limit"
    CONTEXT_LIMIT = "context_limit"
    NO_ACTION = "no_action"
    ENV_ERROR = "env_error"


@dataclass(frozen=True)
class Task:
    """One problem of a benchmark: `env_kwargs` are what `gymnasium.make` gets beside the env's name."""

    id: str
    split: str
    env: str
    env_kwargs: tuple[tuple[str, str | int | bool], ...]
    expert_steps: int = 0


@dataclass(frozen=True)
class Arm:
    """A router at one operating point, with the versions of everything that decides: what a result belongs to."""

    router: str
    threshold: float | None
    policy: str
    teacher: str
    training_seed: int

    @property
    def id(self) -> str:
        """Readable and unique within a run."""
        at = "" if self.threshold is None else f"@{self.threshold:.6g}"
        return f"{self.router}{at}/{self.policy}/{self.teacher}/{self.training_seed}"


@dataclass(frozen=True)
class EpisodeKey:
    """Names an episode for ever: a committed key is never run again."""

    stage: str
    config_hash: str
    task: str
    z: int | None
    arm: str
    replica: int

    def __str__(self) -> str:
        z = "clean" if self.z is None else self.z
        return f"{self.stage}|{self.config_hash}|{self.task}|{z}|{self.arm}|{self.replica}"


@dataclass(frozen=True)
class Unit:
    """All arms of one (task, z): they run on one runner, share one tree, and each commits an episode of its own."""

    stage: str
    config_hash: str
    task: Task
    z: int | None
    replica: int
    arms: tuple[Arm, ...]

    def key(self, arm: Arm) -> EpisodeKey:
        """The key of this unit's episode under `arm`."""
        return EpisodeKey(self.stage, self.config_hash, self.task.id, self.z, arm.id, self.replica)


@dataclass(frozen=True)
class Step:
    """One decision and what came of it. `observation` is what the agent saw before acting."""

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
