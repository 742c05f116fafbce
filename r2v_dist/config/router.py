"""Training of the router."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from r2v_dist.config.base import Section
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.learners import MOST_STEPS, MOST_WEIGHT
from r2v_dist.config.places import UserPath


def _for_a_router(section: Any) -> Any:
    """The defaults of a router's ranks hold also where only some keys are given."""
    return (
        {"zero_stage": 0, "threads_per_rank": 1} | section if isinstance(section, dict) else section
    )


def _as_stored(score: Any) -> Any:
    """Stages that are complete are named by the older word."""
    return "dissent" if score == "disagreement" else score


class HysteresisConfig(Section):
    """How often r2v may change who acts, in evaluation and serving alike. A switch to the teacher
    has it read a conversation that its prefix cache does not hold."""

    minimum_hold: int = Field(1, ge=1, le=10_000)
    """Steps that an actor goes on after a switch, the first included."""
    releases: int = Field(1, ge=1, le=10_000)
    """Decisions in a row for the SLM before the teacher gives way."""
    most_switches: int | None = Field(None, ge=0, le=10_000)
    """Most switches of an episode; null for no limit."""
    cold_token_price: float = Field(0.0, ge=0, le=1e3)
    """What a token costs that the teacher reads cold when it takes over, in teacher calls: a switch
    must bring 1 + cold_token_price * cold tokens times the threshold. Cold is what came after the
    teacher's last step. The SLM looks at every step, so the way back is free."""
    cache_s: float | None = Field(None, gt=0, le=1e6)
    """Seconds after which the teacher's prefix cache has forgotten, in serving; null for never.
    Episodes of an evaluation have no clock, so what is served with it is not certified."""

    def content(self) -> dict[str, Any]:
        """The keys that decide how an episode is played."""
        return self.model_dump(mode="json", exclude={"cache_s"})

    def as_before(self) -> dict[str, Any]:
        """As earlier versions named it, which had three keys."""
        newer = {"cold_token_price"} if not self.cold_token_price else set()
        return self.model_dump(mode="json", exclude={"cache_s", *newer})


class RouterConfig(Section):
    """The router learner (docs/method.md, section 7)."""

    mode: Literal["decoupled", "joint"] = "decoupled"
    """`decoupled`: calibrated risk heads, and a policy head, which alone is trained on cost and
    CVaR. `joint`: the single output of the paper.
    """
    score: Annotated[
        Literal["policy", "risk", "value", "dissent", "advantage", "validated"],
        BeforeValidator(_as_stored),
    ] = "policy"
    """The score of a `decoupled` router. `policy`: its policy head. `risk`: rho. `value`: rho -
    rho1, the success gained by one teacher step when the SLM acts from there on. `dissent`, which
    may be written `disagreement`: the probability that the teacher's action differs. `advantage`:
    the success gained by a teacher step for every teacher call that it costs in the end, when the
    router acts from there on; it needs labels.pairs > 0. `validated`: `risk`, `value` or `dissent`,
    the one of largest frontier area on validation tasks, played live in a stage of its own.
    """
    surrogate: Literal["latched", "paper"] = "latched"
    """Cost and failure that training of the policy uses: of an agent that hands over to the teacher
    once, or the independent steps of the paper.
    """
    ablation: Literal["none", "no_cvar", "no_brier", "uncalibrated"] = "none"
    """`no_cvar` bounds the mean failure instead of its CVaR; `no_brier` estimates no risk, so that
    the policy of a `decoupled` router has the features as its only input.
    """
    alpha: float = Field(0.2, gt=0, le=1)
    """Tail mass of CVaR."""
    epsilon: float = Field(0.10, gt=0, lt=1)
    """Largest CVaR of failure over seeds in training of the policy; evaluate.epsilon serves the
    choice of thresholds.
    """
    lambda_max: float = Field(20.0, gt=0, le=MOST_WEIGHT)
    lambda_start: float = Field(1.0, ge=0, le=MOST_WEIGHT)
    lambda_learning_rate: float = Field(0.05, gt=0, le=MOST_WEIGHT)
    lambda_brier: float = Field(0.3, ge=0, le=MOST_WEIGHT)
    """Weight of the Brier score (`joint`)."""
    teacher_cost: float = Field(50.0, gt=0, le=1e9)
    slm_cost: float = Field(1.0, ge=0, le=1e9)
    """Prices of a teacher call and an SLM call; only their ratio counts."""
    kappa: float = Field(20.0, gt=0, le=1e9)
    """Cost of a failed episode, in teacher calls, for the Bayes operating point and for expected
    cost.
    """
    risk_hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (64, 64)
    policy_hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (64,)
    risk_steps: int = Field(400, ge=1, le=MOST_STEPS)
    policy_steps: int = Field(600, ge=1, le=MOST_STEPS)
    """Full-batch optimizer steps; `joint` takes `policy_steps`."""
    learning_rate: float = Field(0.01, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=10)
    temperature_end: float = Field(0.2, gt=0, le=1)
    """Last temperature of p = sigmoid(logit / temperature), which starts at 1. It is low because
    the deployed router has a hard threshold.
    """
    check_every_steps: int = Field(20, ge=1, le=MOST_STEPS)
    """Steps between evaluations on validation labels, for early stopping."""
    patience: int = Field(5, ge=1, le=MOST_STEPS)
    """Evaluations without a better Brier score after which a risk head stops training."""
    save_every_steps: int = Field(100, ge=1, le=MOST_STEPS)
    """Without effect: a router that is killed while it trains starts again. Runs of earlier
    versions name it, and are told apart by it.
    """
    hysteresis: HysteresisConfig | None = None
    """null: every step is decided by its score alone."""
    served: UserPath | None = None
    """Folder of a request log of the gateway. The router `logistic_served` learns from its judged
    conversations; thresholds and results of it come from live episodes, as of every router."""
    deepspeed: Annotated[DeepSpeedConfig, BeforeValidator(_for_a_router)] = DeepSpeedConfig(
        zero_stage=0, threads_per_rank=1
    )

    def content(self) -> dict[str, Any]:
        """The keys that decide what is learned; that of ranks stands there with its default.
        Hysteresis is a matter of play."""
        keys = self.as_before() | {"deepspeed": RouterConfig().deepspeed.as_before()}
        keys.pop("hysteresis", None)
        return keys

    def as_before(self) -> dict[str, Any]:
        """The keys that named a stage in earlier versions."""
        # A newer key counts only where it is set, so that stages of older runs stay complete.
        # What a log tells teaches no other router, and is named by its bytes where it does.
        keys = self.model_dump(mode="json", exclude={"hysteresis", "served"})
        if self.hysteresis is not None:
            keys["hysteresis"] = self.hysteresis.as_before()
        return keys | {"deepspeed": self.deepspeed.as_before()}

    @property
    def tail(self) -> float:
        """Tail mass of the CVaR that training and the choice of thresholds bound; 1 is the mean."""
        return 1.0 if self.ablation == "no_cvar" else self.alpha

    @model_validator(mode="after")
    def _unsharded(self) -> Self:
        if self.deepspeed.zero_stage != 0:
            raise ValueError(
                f"deepspeed.zero_stage = {self.deepspeed.zero_stage}: a router has a few thousand "
                f"parameters; set 0"
            )
        return self
