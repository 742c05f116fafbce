"""The verifier: trained, rules or a judge."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from r2v_dist.config.base import Section
from r2v_dist.config.learners import MOST_TOKENS, MOST_WEIGHT, LearnerConfig
from r2v_dist.config.models import ModelConfig


class VerifierTrainingConfig(LearnerConfig):
    """Learning V from branch values (docs/method.md, section 3). An example is a state with all its
    candidates.
    """

    pairwise_weight: float = Field(0.5, ge=0, le=MOST_WEIGHT)
    """Weight of the logistic loss on pairs of candidates of one state."""


class VerifierConfig(Section):
    """The process verifier."""

    kind: Literal["trained", "rules", "judge"] = "trained"
    model: str = ""
    """`trained`: the backbone, any Hugging Face directory with the SLM's tokenizer, or a name that
    `r2v models list` shows; empty for the cloned SLM.
    """
    training: VerifierTrainingConfig = VerifierTrainingConfig()
    judge: ModelConfig | None = None
    """`judge`: the language model that gives the scores."""
    attempts: int = Field(3, ge=1, le=100)
    """`judge`: most attempts to get an answer that can be read, the first included."""
    threads: int = Field(1, ge=1, le=1024)
    """`trained`: CPU threads of the scorer."""
    replicas: int = Field(1, ge=1, le=10_000)
    """`trained`: scorers. A (task, seed) keeps to one of them, which remembers its conversation."""
    max_tokens: int = Field(8192, ge=256, le=MOST_TOKENS)
    """`trained`: tokens in a forward pass of the scorer, padding included."""
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1)
    """`trained`, GPU only: share of a GPU that the scorer requests from Ray, and the largest share
    of its memory that it takes.
    """

    @model_validator(mode="after")
    def _has_judge(self) -> Self:
        if (self.kind == "judge") != (self.judge is not None):
            raise ValueError("kind judge needs the section `judge`, and no other kind has one")
        if self.judge is not None and self.judge.backend != "openai":
            raise ValueError(
                "judge.backend: a judge is reached over HTTP; use openai, which any vLLM server "
                "speaks too"
            )
        return self

    @property
    def version(self) -> str:
        """Version under which the scores of rules or a judge are stored."""
        return self.kind if self.judge is None else f"judge-{self.judge.model}"

    def content(self) -> dict[str, Any]:
        """The keys that stages depend on. Those that say where and how fast the scorer runs stand
        there with their defaults.
        """
        unset = {name: type(self).model_fields[name].default for name in ("threads", "max_tokens")}
        return self.as_before() | unset | {"training": self.training.content()}

    def as_before(self) -> dict[str, Any]:
        """The keys that named a stage in earlier versions."""
        content = self.model_dump(mode="json", exclude={"gpu_memory_utilization", "replicas"})
        judge = {"judge": self.judge.content()} if self.judge else {}
        return content | {"training": self.training.as_before()} | judge
