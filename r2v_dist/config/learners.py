"""The learning part of a run's configuration: what is collected and trained."""

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from r2v_dist.config.base import Section
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.env import SEED_BLOCK

ConstraintStatus = Literal["slack", "active", "violated", "infeasible"]
CONSTRAINT_STATUSES: tuple[ConstraintStatus, ...] = get_args(ConstraintStatus)
"""State of the constraint CVaR <= epsilon at the end of training; `learners/router/duality.py`
defines each.
"""
MOST_BRANCHES = 1000
"""Branches from one state; the columns that count branches and replicas hold at most 32,767."""
MOST_STATES = 10_000_000
MOST_STEPS = 10_000_000
MOST_TOKENS = 10_000_000
MOST_WEIGHT = 1e6


class CollectConfig(Section):
    """Teacher episodes for behaviour cloning, on training tasks."""

    tasks: int | None = Field(None, ge=1, le=MOST_STATES)
    """Number of training tasks, from the first; null for all. Of the other training tasks
    `branches` takes the first and `labels` the last, so that their tasks are new to the SLM.
    """

    clean_episodes: int = Field(1, ge=0, le=1)
    """Unperturbed episodes of a task (0 or 1: a deterministic teacher would only repeat itself)."""
    perturbed_episodes: int = Field(8, ge=0, le=SEED_BLOCK)
    """Perturbed episodes of a task, each under another training seed."""

    @model_validator(mode="after")
    def _some_episodes(self) -> Self:
        if self.clean_episodes + self.perturbed_episodes == 0:
            raise ValueError(
                "clean_episodes and perturbed_episodes are both 0: there is nothing to clone; "
                "raise one"
            )
        return self


class LoraConfig(Section):
    """Low-rank adaptation (Hu et al., 2021), with the paper's settings as defaults."""

    r: int = Field(32, ge=1, le=65_536)
    alpha: int = Field(64, ge=1, le=65_536)
    dropout: float = Field(0.1, ge=0, lt=1)


_HOW = ("micro_batch_size", "gradient_checkpointing", "save_every_steps")
"""Keys that say how a model is trained and change nothing of what it learns, beyond rounding."""


class LearnerConfig(Section):
    """The keys that all learners have."""

    learning_rate: float = Field(1.5e-4, gt=0, le=10)
    epochs: float = Field(3.0, gt=0, le=10_000)
    batch_size: int = Field(16, ge=1, le=1_000_000)
    """Examples in an optimizer step, over all ranks."""
    micro_batch_size: int = Field(16, ge=1, le=1_000_000)
    """Examples in a forward pass, on one rank."""
    warmup_share: float = Field(0.05, ge=0, le=1)
    max_length: int = Field(4096, ge=64, le=MOST_TOKENS)
    lora: LoraConfig | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    attention: Literal[
        "auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"
    ] = "auto"
    """The implementation of attention, by Hugging Face's names; `auto` leaves it to the model."""
    save_every_steps: int = Field(50, ge=1, le=MOST_STEPS)
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()

    def content(self) -> dict[str, Any]:
        """The keys that decide what is learned. The others stand there with their defaults, as runs
        that had only those are named.
        """
        unset = {name: type(self).model_fields[name].default for name in _HOW}
        deepspeed = type(self).model_fields["deepspeed"].default
        return self.as_before() | unset | {"deepspeed": deepspeed.as_before()}

    def as_before(self) -> dict[str, Any]:
        """The keys that named a stage in earlier versions."""
        content = self.model_dump(mode="json", exclude={"attention"})
        return content | {"deepspeed": self.deepspeed.as_before()}

    @model_validator(mode="after")
    def _flash_attention_is_short(self) -> Self:
        if self.attention.startswith("flash") and not self.bf16:
            raise ValueError(f"attention = {self.attention}: takes bf16: true; set it, or sdpa")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        ranks = self.deepspeed.ranks
        together = self.micro_batch_size * ranks
        if self.batch_size % together:
            below = self.batch_size // together * together
            sizes = f"{below} or {below + together}" if below else str(together)
            raise ValueError(
                f"batch_size = {self.batch_size}: must be a multiple of micro_batch_size x "
                f"deepspeed.ranks = "
                f"{self.micro_batch_size} x {ranks} = {together}; set {sizes}"
            )
        return self


class BCConfig(LearnerConfig):
    """Behaviour cloning of the teacher's successful episodes. An example is an episode."""

    padding_free: bool = False
    """Lay the episodes of a micro batch end to end in one row, none seeing another, instead of
    padding them to one length. Saves time where attention skips what is masked (flash attention on
    GPUs); elsewhere the mask is as large as the row is long, squared.
    """


class DPOConfig(LearnerConfig):
    """Verifier-guided DPO with consistency (docs/method.md, section 4). An example is a pair."""

    learning_rate: float = Field(5e-6, gt=0, le=10)
    epochs: float = Field(1.0, gt=0, le=10_000)
    beta: float = Field(0.1, gt=0, le=MOST_WEIGHT)
    beta_c: float = Field(0.1, ge=0, le=MOST_WEIGHT)
    """Weight of the consistency term; 0 also saves its forward pass."""
    beta_s: float = Field(0.1, ge=0, le=MOST_WEIGHT)
    """Weight of the likelihood of a+."""
    temperature: float = Field(2.0, gt=0, le=1000)
    """Temperature of the distributions that the consistency term compares."""
    min_gap: float = Field(0.1, ge=0, le=1)
    """Pairs with a smaller V(a+) - V(a-) are dropped."""
    verifier_branches: float = Field(2.0, ge=0, le=MOST_WEIGHT)
    """Weight w of the verifier's score V, in branches, for a candidate that has n branches of its
    own: the value is (successes + w V) / (n + w).
    """
