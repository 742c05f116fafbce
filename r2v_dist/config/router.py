"""Training of the router."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from r2v_dist.config.base import Section
from r2v_dist.config.learners import MOST_STEPS, MOST_WEIGHT, DeepSpeedConfig


def _for_a_router(given: Any) -> Any:
    """The defaults of a router's ranks hold also where only some keys are given."""
    return {"zero_stage": 0, "threads_per_rank": 1} | given if isinstance(given, dict) else given


class RouterConfig(Section):
    """The router learner (docs/method.md, section 7)."""

    mode: Literal["decoupled", "joint"] = "decoupled"
    """`decoupled`: calibrated risk heads, and a policy head; only the policy head sees cost and
    CVaR. `joint`: one output for both.
    """
    score: Literal["policy", "risk", "value", "dissent", "advantage"] = "policy"
    """What a `decoupled` router compares with its threshold. `policy`: its policy head. `risk`: the
    residual risk rho. `value`: rho - rho1, the worth of one teacher step to an SLM that never
    escalates again. `dissent`: the probability that the teacher would act differently. `advantage`:
    the success that a teacher step gains for each call, where the agent may escalate again; it
    learns from labels.pairs.
    """
    surrogate: Literal["latched", "paper"] = "latched"
    ablation: Literal["none", "no_cvar", "no_brier", "uncalibrated"] = "none"
    """`no_cvar` bounds the mean failure instead of its CVaR; `no_brier` estimates no risk
    (decoupled: the policy sees only the features).
    """
    alpha: float = Field(0.2, gt=0, le=1)
    """Tail mass of CVaR."""
    epsilon: float = Field(0.10, gt=0, lt=1)
    """Largest CVaR of failure over seeds in training, where a policy escalates once and the teacher
    finishes; evaluate.epsilon is the bound for thresholds.
    """
    lambda_max: float = Field(20.0, gt=0, le=MOST_WEIGHT)
    lambda_start: float = Field(1.0, ge=0, le=MOST_WEIGHT)
    lambda_learning_rate: float = Field(0.05, gt=0, le=MOST_WEIGHT)
    lambda_brier: float = Field(0.3, ge=0, le=MOST_WEIGHT)
    """Weight of the Brier score (`joint`)."""
    teacher_cost: float = Field(50.0, gt=0, le=1e9)
    slm_cost: float = Field(1.0, ge=0, le=1e9)
    """Price of an SLM call; only its ratio to `teacher_cost`, a teacher call's price, counts."""
    kappa: float = Field(20.0, gt=0, le=1e9)
    """Cost of a failed episode, in teacher calls. Two operating points minimise expected cost with
    it: `bayes` and `expected_cost`.
    """
    risk_hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (64, 64)
    policy_hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (64,)
    risk_steps: int = Field(400, ge=1, le=MOST_STEPS)
    policy_steps: int = Field(600, ge=1, le=MOST_STEPS)
    """Full-batch optimizer steps; `joint` takes `policy_steps`."""
    learning_rate: float = Field(0.01, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=10)
    temperature_end: float = Field(0.2, gt=0, le=1)
    """p = sigmoid(logit / temperature), the temperature falling from 1 to this: a hard threshold is
    what will be deployed.
    """
    check_every_steps: int = Field(20, ge=1, le=MOST_STEPS)
    """Optimizer steps between two checks on validation labels, for early stopping."""
    patience: int = Field(5, ge=1, le=MOST_STEPS)
    """Checks without a better Brier score before a risk head stops."""
    save_every_steps: int = Field(100, ge=1, le=MOST_STEPS)
    deepspeed: Annotated[DeepSpeedConfig, BeforeValidator(_for_a_router)] = DeepSpeedConfig(
        zero_stage=0, threads_per_rank=1
    )

    @property
    def tail(self) -> float:
        """The tail mass that training and the choice of the threshold bound; 1 is the mean."""
        return 1.0 if self.ablation == "no_cvar" else self.alpha

    @model_validator(mode="after")
    def _unsharded(self) -> Self:
        if self.deepspeed.zero_stage != 0:
            raise ValueError(
                f"deepspeed.zero_stage = {self.deepspeed.zero_stage}: a router has a few thousand "
                f"parameters; set 0"
            )
        return self
