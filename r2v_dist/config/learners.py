"""The learning part of a run's configuration: what is collected, labelled and trained."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from r2v_dist.config.base import Section
from r2v_dist.config.env import SEED_BLOCK
from r2v_dist.config.models import ModelConfig

ConstraintStatus = Literal["slack", "active", "violated", "infeasible"]
CONSTRAINT_STATUSES: tuple[ConstraintStatus, ...] = get_args(ConstraintStatus)
"""How the constraint CVaR <= epsilon ends, by what training measured; learners/router/phases.py says when."""
MOST_BRANCHES = 1000
"""From one state; the columns that count them and their replicas hold no more than 32,767."""
MOST_STATES = 10_000_000
MOST_STEPS = 10_000_000
MOST_TOKENS = 10_000_000
MOST_WEIGHT = 1e6


class CollectConfig(Section):
    """Teacher episodes for behaviour cloning, on training tasks."""

    tasks: int | None = Field(None, ge=1, le=MOST_STATES)
    """The first so many; null for all. Where training tasks are left, `branches` takes the next and `labels` the last, tasks
    that are new to the SLM."""

    clean_episodes: int = Field(1, ge=0, le=1)
    """Unperturbed episodes a task (0 or 1: a deterministic teacher would only repeat itself)."""
    perturbed_episodes: int = Field(8, ge=0, le=SEED_BLOCK)
    """Perturbed episodes a task, each under a training seed of its own."""

    @model_validator(mode="after")
    def _some_episodes(self) -> Self:
        if self.clean_episodes + self.perturbed_episodes == 0:
            raise ValueError("clean_episodes and perturbed_episodes are both 0: there is nothing to clone; raise one")
        return self


class LoraConfig(Section):
    """Low-rank adaptation; METHOD section 2 gives the defaults."""

    r: int = Field(32, ge=1, le=65_536)
    alpha: int = Field(64, ge=1, le=65_536)
    dropout: float = Field(0.1, ge=0, lt=1)


class DeepSpeedConfig(Section):
    """How the learner is spread over ranks."""

    ranks: int = Field(1, ge=1, le=4096)
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: bool = False
    offload_parameters: bool = False
    threads_per_rank: int = Field(2, ge=1, le=1024)

    @model_validator(mode="after")
    def _something_to_offload(self) -> Self:
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError(f"offload_parameters: takes zero_stage 3, not {self.zero_stage}; set zero_stage or leave it out")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer: takes zero_stage 1, 2 or 3, not 0; set zero_stage or leave it out")
        return self


class LearnerConfig(Section):
    """What all learners are told."""

    learning_rate: float = Field(1.5e-4, gt=0, le=10)
    epochs: float = Field(3.0, gt=0, le=10_000)
    batch_size: int = Field(16, ge=1, le=1_000_000)
    """Examples an optimizer step, over all ranks."""
    micro_batch_size: int = Field(16, ge=1, le=1_000_000)
    """Examples a forward pass, on one rank."""
    warmup_share: float = Field(0.05, ge=0, le=1)
    max_length: int = Field(4096, ge=64, le=MOST_TOKENS)
    lora: LoraConfig | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    save_every_steps: int = Field(50, ge=1, le=MOST_STEPS)
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        ranks = self.deepspeed.ranks
        together = self.micro_batch_size * ranks
        if self.batch_size % together:
            below = self.batch_size // together * together
            sizes = f"{below} or {below + together}" if below else str(together)
            raise ValueError(
                f"batch_size = {self.batch_size}: must be a multiple of micro_batch_size x deepspeed.ranks = "
                f"{self.micro_batch_size} x {ranks} = {together}; set {sizes}"
            )
        return self


class BCConfig(LearnerConfig):
    """Behaviour cloning of the teacher's successful episodes. An example is an episode."""

    padding_free: bool = False
    """Lay the episodes of a micro batch end to end in one row, none seeing another, instead of padding them to one length. Saves time
    where attention skips what is masked (flash attention on GPUs); elsewhere the mask is as large as the row is long, squared."""


class DPOConfig(LearnerConfig):
    """Verifier-guided DPO with consistency (METHOD section 4). An example is a pair."""

    learning_rate: float = Field(5e-6, gt=0, le=10)
    epochs: float = Field(1.0, gt=0, le=10_000)
    beta: float = Field(0.1, gt=0, le=MOST_WEIGHT)
    beta_c: float = Field(0.1, ge=0, le=MOST_WEIGHT)
    """Weight of the consistency term; 0 also saves its forward pass."""
    beta_s: float = Field(0.1, ge=0, le=MOST_WEIGHT)
    """Weight of the likelihood of a+."""
    temperature: float = Field(2.0, gt=0, le=1000)
    """Of the distributions that the consistency term compares."""
    min_gap: float = Field(0.1, ge=0, le=1)
    """Pairs with a smaller V(a+) - V(a-) are dropped."""
    verifier_branches: float = Field(2.0, ge=0, le=MOST_WEIGHT)
    """How many branches the verifier's opinion is worth where a candidate has branches of its own: V = (successes + w V) / (n + w)."""


def _for_a_router(given: Any) -> Any:
    """The defaults of a router's ranks hold also where only some keys are given."""
    return {"zero_stage": 0, "threads_per_rank": 1} | given if isinstance(given, dict) else given


class RouterConfig(Section):
    """The router learner (METHOD section 7)."""

    mode: Literal["decoupled", "joint"] = "decoupled"
    """`decoupled`: calibrated risk heads, and a policy head that alone sees cost and CVaR. `joint`: the paper's single output."""
    score: Literal["policy", "risk", "value", "dissent", "advantage"] = "policy"
    """What a `decoupled` router compares with its threshold: its policy head, the risk rho, rho - rho1, which is what a step of the
    teacher is worth to an SLM that never asks again, the probability of dissent, that the teacher would do something else, or the
    advantage, the success that a step of the teacher gains for a call to an agent that may ask again (labels.pairs > 0)."""
    surrogate: Literal["latched", "paper"] = "latched"
    ablation: Literal["none", "no_cvar", "no_brier", "uncalibrated"] = "none"
    """`no_cvar` bounds the mean failure instead of its CVaR; `no_brier` estimates no risk (decoupled: the policy sees f alone)."""
    alpha: float = Field(0.2, gt=0, le=1)
    """Tail mass of CVaR."""
    epsilon: float = Field(0.10, gt=0, lt=1)
    """The most CVaR of failure over seeds, in training of a policy that hands over once; evaluate.epsilon is for thresholds."""
    lambda_max: float = Field(20.0, gt=0, le=MOST_WEIGHT)
    lambda_start: float = Field(1.0, ge=0, le=MOST_WEIGHT)
    lambda_learning_rate: float = Field(0.05, gt=0, le=MOST_WEIGHT)
    lambda_brier: float = Field(0.3, ge=0, le=MOST_WEIGHT)
    """Weight of the Brier score (`joint`)."""
    teacher_cost: float = Field(50.0, gt=0, le=1e9)
    slm_cost: float = Field(1.0, ge=0, le=1e9)
    """Prices of a call; only their ratio counts."""
    kappa: float = Field(20.0, gt=0, le=1e9)
    """Cost of a failed episode, in teacher calls: of the Bayes operating point and of least expected cost."""
    risk_hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (64, 64)
    policy_hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = (64,)
    risk_steps: int = Field(400, ge=1, le=MOST_STEPS)
    policy_steps: int = Field(600, ge=1, le=MOST_STEPS)
    """Full-batch optimizer steps; `joint` takes `policy_steps`."""
    learning_rate: float = Field(0.01, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=10)
    temperature_end: float = Field(0.2, gt=0, le=1)
    """p = sigmoid(logit / temperature), the temperature falling from 1 to this: a hard threshold is what will be deployed."""
    check_every_steps: int = Field(20, ge=1, le=MOST_STEPS)
    """Validation labels are looked at this often: early stopping."""
    patience: int = Field(5, ge=1, le=MOST_STEPS)
    """Checks without a better Brier score before a risk head stops."""
    save_every_steps: int = Field(100, ge=1, le=MOST_STEPS)
    deepspeed: Annotated[DeepSpeedConfig, BeforeValidator(_for_a_router)] = DeepSpeedConfig(zero_stage=0, threads_per_rank=1)

    @property
    def tail(self) -> float:
        """The tail mass that training and the choice of the threshold bound; 1 is the mean."""
        return 1.0 if self.ablation == "no_cvar" else self.alpha

    @model_validator(mode="after")
    def _unsharded(self) -> Self:
        if self.deepspeed.zero_stage != 0:
            raise ValueError(f"deepspeed.zero_stage = {self.deepspeed.zero_stage}: a router has a few thousand parameters; set 0")
        return self


class VerifierTrainingConfig(LearnerConfig):
    """Learning V from branch values (METHOD section 3). An example is a state with all its candidates."""

    pairwise_weight: float = Field(0.5, ge=0, le=MOST_WEIGHT)
    """Of the logistic loss on pairs of candidates of one state."""


class VerifierConfig(Section):
    """The process verifier."""

    kind: Literal["trained", "rules", "judge"] = "trained"
    model: str = ""
    """`trained`: the backbone, any Hugging Face directory with the SLM's tokenizer; empty for the cloned SLM."""
    training: VerifierTrainingConfig = VerifierTrainingConfig()
    judge: ModelConfig | None = None
    """`judge`: the language model that is asked for scores."""
    attempts: int = Field(3, ge=1, le=100)
    """`judge`: how often an answer that cannot be read is asked for again, the first time included."""
    threads: int = Field(1, ge=1, le=1024)
    """`trained`: CPU threads of the scorer."""
    max_tokens: int = Field(8192, ge=256, le=MOST_TOKENS)
    """`trained`: tokens a forward pass of the scorer, padding included."""
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1)
    """`trained`, GPU only: the share of a GPU that the scorer asks Ray for, and the most of its memory that it takes."""

    @model_validator(mode="after")
    def _has_judge(self) -> Self:
        if (self.kind == "judge") != (self.judge is not None):
            raise ValueError("kind judge needs the section `judge`, and no other kind has one")
        if self.judge is not None and self.judge.backend != "openai":
            raise ValueError("judge.backend: a judge is asked over HTTP; use openai, which any vLLM server speaks too")
        return self

    @property
    def version(self) -> str:
        """Under which scores are stored that no trained model gives."""
        return self.kind if self.judge is None else f"judge-{self.judge.model}"

    def content(self) -> dict[str, Any]:
        """The keys that stages depend on; where the scorer runs is none of them."""
        content = self.model_dump(mode="json", exclude={"gpu_memory_utilization"})
        return content | ({} if self.judge is None else {"judge": self.judge.content()})


class BranchConfig(Section):
    """The states whose candidates are valued by branches, for the verifier and for preference pairs."""

    tasks: int = Field(40, ge=1, le=MOST_STATES)
    validation_tasks: int = Field(12, ge=1, le=MOST_STATES)
    seeds: int = Field(4, ge=2, le=SEED_BLOCK)
    """Of each split; two views of one state are two seeds that met it."""
    states: int = Field(100, ge=1, le=MOST_STATES)
    validation_states: int = Field(40, ge=1, le=MOST_STATES)
    n: int = Field(4, ge=1, le=MOST_BRANCHES)
    """Branches a candidate."""
    n_agreed: int = Field(2, ge=1, le=MOST_BRANCHES)
    """Where all K candidates are one action."""
    outcomes: int = Field(400, ge=0, le=MOST_STATES)
    """Further training states for the verifier, each with the one outcome of its own episode."""
    teacher: bool = True
    """Also value the teacher's action there."""


class LabelConfig(Section):
    """The states that the router learns from, and their counterfactual branches (METHOD section 6)."""

    tasks: int = Field(60, ge=2, le=MOST_STATES)
    validation_tasks: int = Field(20, ge=2, le=MOST_STATES)
    seeds: int = Field(10, ge=10, le=SEED_BLOCK)
    """Of each split. CVaR over fewer says nothing."""
    states: int = Field(400, ge=1, le=MOST_STATES)
    """States of a round with T1-branches, and S-branches where the SLM's own outcome is not one already. Every state of the SLM alone
    has a Tinf-branch besides."""
    validation_states: int = Field(200, ge=1, le=MOST_STATES)
    n: int = Field(2, ge=1, le=MOST_BRANCHES)
    """Branches of a kind; many states with few branches teach more than few states with many."""
    n_unsure: int = Field(4, ge=1, le=MOST_BRANCHES)
    """The same in the second round, where the first round's risk lies between .1 and .9."""
    random_rate: float = Field(0.2, gt=0, lt=1)
    """Escalation rate of the episodes that lead to states after a hand-over."""
    pairs: int = Field(0, ge=0, le=MOST_STATES)
    """States of the second round from which the first round's router goes on, once after the SLM's action and once after the
    teacher's, more often where it expects them to differ. Training tasks only."""
    rounds: Literal[1, 2] = 2
    """The second round labels states on the paths of the first round's router."""
    followed_rate: float = Field(0.5, gt=0, lt=1)
    """How often that router asks there: at this share of the states of the SLM alone. What a step gains and saves depends on how often is
    asked later, so it should be about where the router will be deployed."""

    def first_round(self) -> dict[str, Any]:
        """The keys that decide the labels of the first round; the others are of the second alone."""
        return self.model_dump(mode="json", exclude={"n_unsure", "pairs", "followed_rate"})
