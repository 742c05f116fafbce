"""The run configuration: every key is read somewhere, an unknown key is an error, and loading imports nothing heavy.

`load_config(path, overrides)` is the only way in. What decides an outcome is part of `content_hash`; where and how fast
the work is done (`cluster`, `run_dir`) is not, so that a run can be resumed on another machine.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from r2v_dist.config.base import Section, distinct, read_mapping, validate
from r2v_dist.config.env import LARGEST_SEED, EnvConfig, PerturbConfig, SandboxConfig, Split
from r2v_dist.config.learners import (
    MOST_BRANCHES,
    BCConfig,
    BranchConfig,
    CollectConfig,
    DPOConfig,
    LabelConfig,
    RouterConfig,
    VerifierConfig,
)
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.places import UserPath
from r2v_dist.seeding import short_hash

Baseline = Literal["random", "entropy", "heuristic", "verifier", "perplexity", "stuck_latch", "query_level"]
Learned = Literal["r2v", "r2v_no_cvar", "r2v_no_brier", "r2v_uncalibrated", "r2v_joint", "r2v_dissent"]
ORACLE: Literal["oracle"] = "oracle"
"""Escalates by the share of independent branches that fail from a state: a bound on what a perfect risk would buy, and dear."""
RouterName = Baseline | Learned | Literal["oracle"]
Rate = Annotated[float, Field(gt=0, lt=1)]
BASELINES: tuple[str, ...] = get_args(Baseline)
FITTED_BASELINES: tuple[str, ...] = ("query_level",)
"""Baselines that learn from outcomes. The others are unfitted: only their threshold is chosen."""
LEARNED: tuple[str, ...] = get_args(Learned)
"""The router and its ablations: each one `RouterModel` on the step's features, differently trained."""


class EvaluateConfig(Section):
    """Live evaluation on held-out tasks and seeds. Thresholds come from validation tasks alone."""

    rates: Annotated[tuple[Rate, ...], Field(min_length=1), AfterValidator(distinct)] = (
        0.03, 0.07, 0.12, 0.18, 0.25, 0.32, 0.4, 0.47, 0.55, 0.8,
    )  # fmt: skip
    """Target escalation rates; a router's thresholds are the matching quantiles of its score along validation episodes of the SLM."""
    routers: Annotated[tuple[RouterName, ...], AfterValidator(distinct)] = (*get_args(Baseline), *get_args(Learned))
    """Those that the run has no model, verifier or log-probabilities for are left out. `oracle` has to be asked for."""
    oracle_branches: int = Field(4, ge=1, le=MOST_BRANCHES)
    """Of the oracle, from every state on its path; their replicas are used for nothing else."""
    bootstrap: int = Field(2000, ge=100, le=100_000)
    epsilon: float = Field(0.05, gt=0, lt=1)
    """The most CVaR of failure over seeds, above that of the teacher alone, that a chosen threshold may have."""
    confidence: float = Field(0.9, ge=0.5, lt=1)
    """Bootstrap margin: the share of bootstrap samples of the validation tasks in which the chosen
    threshold has no more than that. It is not the confidence level of a test: where no validation
    episode shows an excess, no sample does, however few the tasks are. Where the teacher fails too,
    raise epsilon rather than lower the margin."""
    budget: float | None = Field(0.3, gt=0, le=1)
    """Teacher calls that the router may spend, as a share of teacher-only's: a second operating point in the report; null for none."""


class CertificateConfig(Section):
    """What the certificate promises of new tasks (METHOD section 8). It needs calibration tasks."""

    risk: float = Field(0.1, gt=0, lt=1)
    delta: float = Field(0.1, gt=0, lt=1)
    """Probability that the promise is wrong."""
    statistic: Literal["mean", "cvar"] = "mean"
    """A task's loss: its failure rate over seeds, or the CVaR of its failures as the stronger promise."""


class ClusterConfig(Section):
    """Where the run happens. Changing this section changes no result."""

    address: str = ""
    """A Ray address (`auto`, `ray://host:10001`); empty starts Ray on this machine."""
    num_cpus: int | None = Field(None, ge=1, le=1_000_000)
    runners: int = Field(2, ge=1, le=10_000)
    in_flight: int = Field(12, ge=1, le=10_000)
    """Units (task x seed) under way at once on one runner."""
    memory_gib: float = Field(6.0, gt=0, le=1e6)
    """What the run needs; it refuses to start with less available."""
    max_restarts: int = Field(3, ge=0, le=1000)
    unit_timeout_s: float = Field(600.0, gt=0, le=1e6)
    shard_episodes: int = Field(256, ge=1, le=1_000_000)
    shard_seconds: float = Field(5.0, gt=0, le=1e6)


class RunConfig(Section):
    """A whole run."""

    name: str = Field(min_length=1, max_length=200)
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    run_dir: UserPath = Path("runs/default")
    env: EnvConfig
    perturb: PerturbConfig = PerturbConfig()
    slm: ModelConfig
    teacher: ModelConfig
    collect: CollectConfig = CollectConfig()
    bc: BCConfig = BCConfig()
    branches: BranchConfig = BranchConfig()
    verifier: VerifierConfig | None = None
    """None: no verifier, the SLM's first candidate acts."""
    dpo: DPOConfig | None = None
    """None: the cloned SLM is deployed. DPO needs a trained verifier."""
    labels: LabelConfig = LabelConfig()
    router: RouterConfig | None = None
    """None: no router is trained; the baselines that need none are evaluated."""
    certificate: CertificateConfig = CertificateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    training_seeds: int = Field(1, ge=1, le=100)
    """Everything that is trained, and what follows from it, is done once for each; tasks and teacher episodes are shared."""
    sandbox: SandboxConfig = SandboxConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def simulated(self) -> bool:
        """Whether any model only pretends; its numbers are labelled wherever they appear."""
        return "simulated" in (self.slm.backend, self.teacher.backend)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for rule in (_roles, _router_labels, _enough_tasks, _room_to_answer, _cores):
            if problem := rule(self):
                raise ValueError(problem)
        return self

    @property
    def alpha(self) -> float:
        """Tail mass of every CVaR of this run: training, thresholds, report and certificate.

        The key is `router.alpha`; a run that trains no router has the default of that key.
        """
        return (self.router or RouterConfig()).alpha

    @property
    def alone(self) -> str:
        """The router under which the SLM acts as it is deployed, without the teacher: with a verifier, by its choice."""
        return "slm_only" if self.verifier is None else "best_of_k"

    @property
    def swept(self) -> tuple[str, ...]:
        """The routers with a threshold that this run can play."""
        logprobs = self.slm.backend == "vllm" or self.slm.signal_auroc is not None
        impossible = {
            *(() if logprobs else ("entropy", "heuristic", "perplexity")),
            *(() if self.verifier is not None else ("verifier",)),
            *(() if self.router is not None else ("query_level", *LEARNED)),
        }
        return tuple(name for name in self.evaluate.routers if name not in impossible)

    @property
    def gpus(self) -> dict[str, float]:
        """What engines and verifier, which work at the same time, ask of a cluster with GPUs, by the key that says how much."""
        asked: dict[str, float] = {}
        for role, model in (("slm", self.slm), ("teacher", self.teacher)):
            if model.backend == "vllm":
                asked[f"{role}.{'gpu_memory_utilization' if model.tensor_parallel == 1 else 'tensor_parallel'}"] = model.gpus
        if self.verifier is not None and self.verifier.kind == "trained":
            asked["verifier.gpu_memory_utilization"] = self.verifier.gpu_memory_utilization
        return asked

    def content_hash(self) -> str:
        """Hash of everything that decides an outcome."""
        content = self.model_dump(mode="json", exclude={"cluster", "run_dir", "name", "env", "slm", "teacher", "verifier"})
        verifier = self.verifier and self.verifier.content()
        parts = [content, self.env.content(), self.slm.content(), self.teacher.content(), verifier]
        return short_hash(json.dumps(parts, sort_keys=True))


def _roles(config: RunConfig) -> str | None:
    """What is wrong with who does what."""
    slm, verifier = config.slm, config.verifier
    if slm.backend == "expert":
        return "slm.backend: the expert is a teacher, not a policy to train; use vllm, openai or simulated"
    trained = verifier is not None and verifier.kind == "trained"
    if trained and slm.backend != "vllm":
        return f"verifier.kind = trained: an SLM with backend {slm.backend} is not trained here; use rules or judge"
    if verifier is not None and verifier.kind == "rules" and config.env.kind != "textworld":
        return f"verifier.kind = rules: there are rules for textworld and none for {config.env.kind}; use trained or judge"
    if config.dpo is not None and not trained:
        return "dpo: pairs need a trained verifier; add `verifier: {kind: trained}`"
    return None


def _router_labels(config: RunConfig) -> str | None:
    """What is wrong with the labels that a router learns from."""
    router, labels, perturb = config.router, config.labels, config.perturb
    if router is None:
        return None
    if router.score == "advantage" and (labels.rounds < 2 or labels.pairs < 1):
        return (
            f"router.score = advantage: learns from labels.pairs = {labels.pairs} in labels.rounds = {labels.rounds}; "
            "set some pairs and 2 rounds"
        )
    count, key = min((perturb.train_seeds, "train_seeds"), (perturb.validation_seeds, "validation_seeds"))
    if count < labels.seeds:
        return f"labels.seeds = {labels.seeds}: perturb.{key} is only {count}; raise it"
    labelled: dict[Split, int] = {"train": labels.tasks, "validation": labels.validation_tasks}
    for split, asked in labelled.items():
        tasks = min(asked, config.env.size(split))
        if tasks < 2:
            return f"env.splits.{split} = {tasks}: a router is chosen on held-out tasks; set at least 2"
        ranks, episodes = router.deepspeed.ranks, tasks * labels.seeds
        if episodes < ranks:
            return f"router.deepspeed.ranks = {ranks}: the {split} labels have {episodes} episodes; use fewer ranks"
    return None


def _enough_tasks(config: RunConfig) -> str | None:
    """Every run chooses its thresholds on validation tasks."""
    if config.env.size("validation") < 1:
        return "env.splits.validation = 0: thresholds are chosen on validation tasks; set at least 1"
    return None


def _room_to_answer(config: RunConfig) -> str | None:
    """A prompt has at least a token, and the answer comes after it."""
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        if model.backend == "vllm" and model.sampling.max_tokens >= model.max_model_len:
            return (
                f"{role}.sampling.max_tokens = {model.sampling.max_tokens}: leaves no room for a prompt in "
                f"max_model_len = {model.max_model_len}; lower it"
            )
    return None


def _cores(config: RunConfig) -> str | None:
    """How the lists of CPU cores are written; whether a machine has them is a question for `plan`."""
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        for part in model.cpu_cores.split(",") if model.cpu_cores else ():
            first, dash, last = part.partition("-")
            numbers = (first, last) if dash else (first,)
            plain = all(number.isascii() and number.isdecimal() and len(number) < 6 for number in numbers)
            if not plain or int(first) > int(last or first):
                return f"{role}.cpu_cores = {model.cpu_cores}: {part!r} is no core and no range of cores; write for example 0-1,3"
    return None


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a YAML run config and apply `key.path=value` overrides (values are YAML).

    Raises UsageError with one line that names file, key, value and fix.
    """
    return validate(RunConfig, read_mapping(path, overrides), path)
