"""The run configuration: every key is read somewhere, an unknown key is an error, and loading imports nothing heavy.

`load_config(path, overrides)` is the only way in. What decides an outcome is part of `content_hash`; where and how fast
the work is done (`cluster`, `run_dir`) is not, so that a run can be resumed on another machine.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from r2v_dist.env_config import EnvConfig, PerturbConfig, SandboxConfig
from r2v_dist.learner_config import BCConfig, BranchConfig, CollectConfig, DPOConfig, LabelConfig, RouterConfig, VerifierConfig
from r2v_dist.model_config import ModelConfig
from r2v_dist.seeding import short_hash
from r2v_dist.yaml_config import Section, read_mapping, validate

Baseline = Literal["random", "entropy", "heuristic", "verifier", "perplexity", "stuck_latch", "query_level"]
Learned = Literal["r2v", "r2v_no_cvar", "r2v_no_brier", "r2v_uncalibrated", "r2v_joint", "r2v_dissent"]
ORACLE: Literal["oracle"] = "oracle"
"""Escalates by the share of independent branches that fail from a state: a bound on what a perfect risk would buy, and dear."""
BASELINES: tuple[str, ...] = get_args(Baseline)
FITTED_BASELINES: tuple[str, ...] = ("query_level",)
"""Baselines that learn from outcomes. The others are unfitted: only their threshold is chosen."""
LEARNED: tuple[str, ...] = get_args(Learned)
"""The router and its ablations: each one `RouterModel` on the step's features, differently trained."""


class EvaluateConfig(Section):
    """Live evaluation on held-out tasks and seeds. Thresholds come from validation tasks alone."""

    rates: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.03, 0.07, 0.12, 0.18, 0.25, 0.32, 0.4, 0.47, 0.55, 0.8)
    """Target escalation rates; a router's thresholds are the matching quantiles of its score along validation episodes of the SLM."""
    routers: tuple[Baseline | Learned | Literal["oracle"], ...] = (*get_args(Baseline), *get_args(Learned))
    """Those that the run has no model, verifier or log-probabilities for are left out. `oracle` has to be asked for."""
    oracle_branches: int = Field(4, ge=1)
    """Of the oracle, from every state on its path; their replicas are used for nothing else."""
    bootstrap: int = Field(2000, ge=100)
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
    num_cpus: int | None = Field(None, ge=1)
    runners: int = Field(2, ge=1)
    in_flight: int = Field(12, ge=1)
    """Units (task x seed) under way at once on one runner."""
    memory_gib: float = Field(6.0, gt=0)
    """What the run needs; it refuses to start with less available."""
    max_restarts: int = Field(3, ge=0)
    unit_timeout_s: float = Field(600.0, gt=0)
    shard_episodes: int = Field(256, ge=1)
    shard_seconds: float = Field(5.0, gt=0)


class RunConfig(Section):
    """A whole run."""

    name: str
    seed: int = 0
    run_dir: Path = Path("runs/default")
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
    training_seeds: int = Field(1, ge=1)
    """Everything that is trained, and what follows from it, is done once for each; tasks and teacher episodes are shared."""
    sandbox: SandboxConfig = SandboxConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def simulated(self) -> bool:
        """Whether any model only pretends; its numbers are labelled wherever they appear."""
        return "simulated" in (self.slm.backend, self.teacher.backend)

    @model_validator(mode="after")
    def _roles(self) -> Self:
        if self.slm.backend == "expert":
            raise ValueError("slm.backend: the expert is a teacher, not a policy to train; use vllm, openai or simulated")
        trained = self.verifier is not None and self.verifier.kind == "trained"
        if trained and self.slm.backend != "vllm":
            raise ValueError(f"verifier.kind = trained: an SLM with backend {self.slm.backend} is not trained here; use rules or judge")
        if self.dpo is not None and not trained:
            raise ValueError("dpo: pairs need a trained verifier; add `verifier: {kind: trained}`")
        if self.router is not None and self.router.score == "advantage" and (self.labels.rounds < 2 or self.labels.pairs < 1):
            raise ValueError(
                f"router.score = advantage: learns from labels.pairs = {self.labels.pairs} in labels.rounds = {self.labels.rounds}; "
                "set some pairs and 2 rounds"
            )
        few = min((self.perturb.train_seeds, "train_seeds"), (self.perturb.validation_seeds, "validation_seeds"))
        if self.router is not None and few[0] < self.labels.seeds:
            raise ValueError(f"labels.seeds = {self.labels.seeds}: perturb.{few[1]} is only {few[0]}; raise it")
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
        content = self.model_dump(mode="json", exclude={"cluster", "run_dir", "name", "slm", "teacher", "verifier"})
        verifier = self.verifier and self.verifier.content()
        return short_hash(json.dumps([content, self.slm.content(), self.teacher.content(), verifier], sort_keys=True))


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a YAML run config and apply `key.path=value` overrides (values are YAML).

    Raises UsageError with one line that names file, key, value and fix.
    """
    return validate(RunConfig, read_mapping(path, overrides), path)
