"""The run configuration: every key is read somewhere, an unknown key is an error, and loading
imports nothing heavy.

`load_config(path, overrides)` is the only way in. What decides an outcome is part of
`content_hash`; where and how fast the work is done (`cluster`, `run_dir`) is not, so that a run can
be resumed on another machine.
"""

import json
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from r2v_dist.config.base import Section, validate
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.env import LARGEST_SEED, EnvConfig, Split
from r2v_dist.config.evaluation import CertificateConfig, EvaluateConfig
from r2v_dist.config.labels import BranchConfig, LabelConfig
from r2v_dist.config.learners import BCConfig, CollectConfig, DPOConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.config.places import UserPath
from r2v_dist.config.router import RouterConfig
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.config.verifier import VerifierConfig
from r2v_dist.config.yaml_file import read_mapping
from r2v_dist.router.names import BY_NAME
from r2v_dist.seeding import short_hash


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
    """Everything that is trained, and what follows from it, is done once for each; tasks and
    teacher episodes are shared.
    """
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
        """The router under which the SLM acts as it is deployed, without the teacher: with a
        verifier, by its choice.
        """
        return "slm_only" if self.verifier is None else "best_of_k"

    @property
    def swept(self) -> tuple[str, ...]:
        """The routers with a threshold that this run can play."""
        has = {
            "logprobs": self.slm.backend == "vllm" or self.slm.signal_auroc is not None,
            "verifier": self.verifier is not None,
            "router": self.router is not None,
        }
        asked = self.evaluate.routers
        return tuple(name for name in asked if all(has[need] for need in BY_NAME[name].needs))

    @property
    def gpus(self) -> dict[str, float]:
        """GPUs that engines and verifier, which work at the same time, request from a cluster, by
        the key that says how much.
        """
        requested: dict[str, float] = {}
        for role, model in (("slm", self.slm), ("teacher", self.teacher)):
            if model.backend == "vllm":
                single = model.tensor_parallel == 1
                key = "gpu_memory_utilization" if single else "tensor_parallel"
                requested[f"{role}.{key}"] = model.gpus
        if self.verifier is not None and self.verifier.kind == "trained":
            share = self.verifier.gpu_memory_utilization
            requested["verifier.gpu_memory_utilization"] = share
        return requested

    def content_hash(self) -> str:
        """Hash of everything that decides an outcome."""
        content = self.model_dump(
            mode="json", exclude={"cluster", "run_dir", "name", "env", "slm", "teacher", "verifier"}
        )
        verifier = self.verifier and self.verifier.content()
        parts = [content, self.env.content(), self.slm.content(), self.teacher.content(), verifier]
        return short_hash(json.dumps(parts, sort_keys=True))


def _roles(config: RunConfig) -> str | None:
    """What is wrong with who does what."""
    slm = config.slm
    verifier = config.verifier
    if slm.backend == "expert":
        return (
            "slm.backend: the expert is a teacher, not a policy to train; use vllm, openai or "
            "simulated"
        )
    trained = verifier is not None and verifier.kind == "trained"
    if trained and slm.backend != "vllm":
        return (
            f"verifier.kind = trained: an SLM with backend {slm.backend} is not trained here; use "
            f"rules or judge"
        )
    if verifier is not None and verifier.kind == "rules" and config.env.kind != "textworld":
        return f"verifier.kind = rules: there are rules for textworld and none for {config.env.kind}; use trained or judge"
    if config.dpo is not None and not trained:
        return "dpo: pairs need a trained verifier; add `verifier: {kind: trained}`"
    return None


def _router_labels(config: RunConfig) -> str | None:
    """What is wrong with the labels that a router learns from."""
    router = config.router
    labels = config.labels
    perturb = config.perturb
    if router is None:
        return None
    if router.score == "advantage" and (labels.rounds < 2 or labels.pairs < 1):
        return (
            f"router.score = advantage: learns from labels.pairs = {labels.pairs} in "
            f"labels.rounds = {labels.rounds}; "
            "set some pairs and 2 rounds"
        )
    count, key = min(
        (perturb.train_seeds, "train_seeds"), (perturb.validation_seeds, "validation_seeds")
    )
    if count < labels.seeds:
        return f"labels.seeds = {labels.seeds}: perturb.{key} is only {count}; raise it"
    labelled: dict[Split, int] = {"train": labels.tasks, "validation": labels.validation_tasks}
    for split, asked in labelled.items():
        tasks = min(asked, config.env.size(split))
        if tasks < 2:
            return (
                f"env.splits.{split} = {tasks}: a router is chosen on held-out tasks; set at least "
                f"2"
            )
        ranks = router.deepspeed.ranks
        episodes = tasks * labels.seeds
        if episodes < ranks:
            return (
                f"router.deepspeed.ranks = {ranks}: the {split} labels have {episodes} episodes; "
                f"use fewer ranks"
            )
    return None


def _enough_tasks(config: RunConfig) -> str | None:
    """Every run chooses its thresholds on validation tasks."""
    if config.env.size("validation") < 1:
        return (
            "env.splits.validation = 0: thresholds are chosen on validation tasks; set at least 1"
        )
    return None


def _room_to_answer(config: RunConfig) -> str | None:
    """A prompt has at least a token, and the answer comes after it."""
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        if model.backend == "vllm" and model.sampling.max_tokens >= model.max_model_len:
            return (
                f"{role}.sampling.max_tokens = {model.sampling.max_tokens}: leaves no room for a "
                f"prompt in "
                f"max_model_len = {model.max_model_len}; lower it"
            )
    return None


def _cores(config: RunConfig) -> str | None:
    """How the lists of CPU cores are written; whether a machine has them is a question
    for `plan`.
    """
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        for part in model.cpu_cores.split(",") if model.cpu_cores else ():
            first, dash, last = part.partition("-")
            numbers = (first, last) if dash else (first,)
            plain = all(
                number.isascii() and number.isdecimal() and len(number) < 6 for number in numbers
            )
            if not plain or int(first) > int(last or first):
                return (
                    f"{role}.cpu_cores = {model.cpu_cores}: {part!r} is no core and no range of "
                    f"cores; write for example 0-1,3"
                )
    return None


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a YAML run config and apply `key.path=value` overrides (values are YAML).

    Raises UsageError with one line that names file, key, value and fix.
    """
    return validate(RunConfig, read_mapping(path, overrides), path)
