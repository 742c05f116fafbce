"""The run configuration: every key is read somewhere, an unknown key is an error, and loading
imports nothing heavy.

`load_config(path, overrides)` is the only entrance. Invariant: keys that decide an outcome are part
of `content_hash`; keys that say where and how fast the work is done (`cluster`, `run_dir`), or how
the result is served (`serve`), are not, so that a run can be resumed on another machine.
"""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from r2v_dist.config.base import Section, validate
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.env import LARGEST_SEED, EnvConfig, Split
from r2v_dist.config.evaluation import CertificateConfig, EvaluateConfig
from r2v_dist.config.labels import BranchConfig, LabelConfig
from r2v_dist.config.learners import BCConfig, CollectConfig, DPOConfig
from r2v_dist.config.models import LARGEST_ADAPTER, ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.config.places import RunPlace
from r2v_dist.config.router import RouterConfig
from r2v_dist.config.sandbox import SandboxConfig
from r2v_dist.config.serve import ServeConfig
from r2v_dist.config.verifier import VerifierConfig
from r2v_dist.config.yaml_file import read_mapping
from r2v_dist.router.names import BY_NAME, SERVED
from r2v_dist.seeding import short_hash


class RunConfig(Section):
    """A whole run."""

    name: str = Field(min_length=1, max_length=200)
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    run_dir: RunPlace = Path("runs/default")
    """Folder of the run, or its address in an object store (`s3://bucket/run`). On a cluster every
    node must reach it.
    """
    env: EnvConfig
    perturb: PerturbConfig = PerturbConfig()
    slm: ModelConfig
    teacher: ModelConfig
    collect: CollectConfig = CollectConfig()
    bc: BCConfig | None = BCConfig()
    """None: no teacher is cloned, and the SLM acts as it comes."""
    branches: BranchConfig = BranchConfig()
    verifier: VerifierConfig | None = None
    """None: without a verifier the SLM's first candidate acts."""
    dpo: DPOConfig | None = None
    """None: the cloned SLM is deployed. Preference learning needs a trained verifier."""
    labels: LabelConfig = LabelConfig()
    router: RouterConfig | None = None
    """None: no router is trained; the baselines that need none are evaluated."""
    certificate: CertificateConfig = CertificateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    training_seeds: int = Field(1, ge=1, le=100)
    """Number of training seeds. Training and all later stages run once for each; tasks and teacher
    episodes are shared.
    """
    sandbox: SandboxConfig = SandboxConfig()
    cluster: ClusterConfig = ClusterConfig()
    serve: ServeConfig = ServeConfig()

    @property
    def simulated(self) -> bool:
        """Whether a model is simulated; results of such a run are labelled wherever they appear."""
        return "simulated" in (self.slm.backend, self.teacher.backend)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for rule in _RULES:
            problem = rule(self)
            if problem is not None:
                raise ValueError(problem)
        return self

    def with_gpus(self, gpus: Literal["require", "none"]) -> "RunConfig":
        """The same run with `cluster.gpus` decided."""
        cluster = self.cluster.model_copy(update={"gpus": gpus})
        return self.model_copy(update={"cluster": cluster})

    @property
    def alpha(self) -> float:
        """Tail mass of every CVaR of this run: training, thresholds, report and certificate.

        The key is `router.alpha`; a run that trains no router has the default of that key.
        """
        return (self.router or RouterConfig()).alpha

    @property
    def slm_only_router(self) -> str:
        """The router under which the deployed SLM acts without the teacher: `best_of_k` with a
        verifier, else `slm_only`.
        """
        return "slm_only" if self.verifier is None else "best_of_k"

    @property
    def swept(self) -> tuple[str, ...]:
        """The evaluated routers whose needs this run meets."""
        available = {
            "logprobs": self.slm.backend == "vllm" or self.slm.signal_auroc is not None,
            "verifier": self.verifier is not None,
            "router": self.router is not None,
            "heads": self.router is not None and self.router.mode == "decoupled",
            "served": self.router is not None and self.router.served is not None,
        }
        needs_met = {need for need, is_met in available.items() if is_met}
        return tuple(
            name for name in self.evaluate.routers if needs_met.issuperset(BY_NAME[name].needs)
        )

    @property
    def chooses_score(self) -> bool:
        """Whether validation tasks choose what r2v compares with its threshold."""
        return self.router is not None and self.router.score == "validated"

    @property
    def gpus(self) -> dict[str, float]:
        """GPUs that one engine of each role and one verifier, which run at the same time, request
        from a cluster with GPUs, by the configuration key that decides the number.
        """
        requested: dict[str, float] = {}
        for role, model in (("slm", self.slm), ("teacher", self.teacher)):
            if model.backend == "vllm":
                shares_gpu = model.ranks == 1
                key = "gpu_memory_utilization" if shares_gpu else "tensor_parallel"
                requested[f"{role}.{key}"] = model.gpus
        if self.verifier is not None and self.verifier.kind == "trained":
            requested["verifier.gpu_memory_utilization"] = self.verifier.gpu_memory_utilization
        return requested

    @property
    def replicas(self) -> dict[str, int]:
        """How many of each there are, by the keys of `gpus`."""
        sections = {"slm": self.slm, "teacher": self.teacher, "verifier": self.verifier}
        roles = {key: sections[key.partition(".")[0]] for key in self.gpus}
        return {key: section.replicas for key, section in roles.items() if section is not None}

    @property
    def merges_adapters(self) -> bool:
        """Whether engines of the SLM take adapters merged into the weights."""
        merges = self.slm.merge_adapters
        return self.cluster.gpus == "none" if merges is None else merges

    @property
    def adapter_rank(self) -> int:
        """The largest rank of an adapter that an engine of the SLM is given; 0 where none is. What
        DPO learns is added to what cloning has learned.
        """
        learners = (self.bc, self.dpo)
        ranks = [learner.lora.r for learner in learners if learner and learner.lora]
        return 0 if self.merges_adapters or self.slm.backend != "vllm" else sum(ranks)

    @property
    def all_gpus(self) -> float:
        """GPUs that engines and verifiers request together."""
        return round(sum(self.replicas[key] * gpus for key, gpus in self.gpus.items()), 6)

    def content_hash(self) -> str:
        """Hash of everything that decides an outcome."""
        apart = {"env", "slm", "teacher", "verifier"}
        content = self.model_dump(
            mode="json", exclude={"cluster", "run_dir", "name", "serve", *apart}
        )
        content |= {"sandbox": self.sandbox.content(), "labels": self.labels.content()}
        content["bc"] = self.bc and self.bc.content()
        content["dpo"] = self.dpo and self.dpo.content()
        content["router"] = self.router and self.router.content()
        if self.router and self.router.hysteresis:
            content["hysteresis"] = self.router.hysteresis.content()
        verifier = self.verifier and self.verifier.content()
        parts = [content, self.env.content(), self.slm.content(), self.teacher.content(), verifier]
        return short_hash(json.dumps(parts, sort_keys=True))


def _roles(config: RunConfig) -> str | None:
    """The problem with the backends and kinds of the roles, if there is one."""
    slm = config.slm
    verifier = config.verifier
    if slm.backend == "expert":
        return (
            "slm.backend: the expert is a teacher, not a policy to train; use vllm, openai or "
            "simulated"
        )
    trains_verifier = verifier is not None and verifier.kind == "trained"
    if trains_verifier and slm.backend != "vllm":
        return (
            f"verifier.kind = trained: an SLM with backend {slm.backend} is not trained "
            "here; use rules or judge"
        )
    if config.dpo is not None and not trains_verifier:
        return "dpo: pairs need a trained verifier; add `verifier: {kind: trained}`"
    if trains_verifier and config.bc is None:
        return "verifier.kind = trained: begins from the cloned SLM, and bc is null; add `bc`"
    return None


def _router_labels(config: RunConfig) -> str | None:
    """The problem with the labels that a router learns from, if there is one."""
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
    if router.score == "validated" and router.mode == "joint":
        return (
            "router.score = validated: chooses among estimates of which a router with mode = joint "
            "makes one; leave router.score or router.mode out"
        )
    if router.score == "validated" and "r2v" not in config.evaluate.routers:
        return (
            "router.score = validated: chooses what r2v compares with its threshold, and r2v is "
            "not in evaluate.routers; add it, or set router.score to risk"
        )
    count, key = min(
        (perturb.train_seeds, "train_seeds"), (perturb.validation_seeds, "validation_seeds")
    )
    if count < labels.seeds:
        return f"labels.seeds = {labels.seeds}: perturb.{key} is only {count}; raise it"
    labelled: dict[Split, int] = {"train": labels.tasks, "validation": labels.validation_tasks}
    for split, labelled_tasks in labelled.items():
        tasks = min(labelled_tasks, config.env.size(split))
        if tasks < 2:
            return (
                f"env.splits.{split} = {tasks}: a router is chosen on held-out tasks; set at least "
                f"2"
            )
        ranks = router.deepspeed.ranks
        episodes = labels.episodes(tasks)
        if episodes < labels.seeds:
            return (
                f"labels.seeds_per_task = {labels.seeds_per_task}: {tasks} {split} tasks meet only "
                f"{episodes} of labels.seeds = {labels.seeds} seeds; raise it, or label more tasks"
            )
        if episodes < ranks:
            return (
                f"router.deepspeed.ranks = {ranks}: the {split} labels have {episodes} episodes; "
                f"use fewer ranks"
            )
    return None


def _served_log(config: RunConfig) -> str | None:
    """A request log is named where a router learns from it, and only there."""
    has_log = config.router is not None and config.router.served is not None
    uses_log = any(name in SERVED for name in config.evaluate.routers)
    if has_log and not uses_log:
        return "router.served: no router learns from it; add logistic_served to evaluate.routers"
    if uses_log and not has_log:
        return (
            "evaluate.routers: logistic_served learns from a request log; set router.served to its "
            "folder, for example RUN/gateway/requests"
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
    """A prompt of at least one token and the answer must fit the context."""
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        if model.backend == "vllm" and model.sampling.max_tokens >= model.max_model_len:
            return (
                f"{role}.sampling.max_tokens = {model.sampling.max_tokens}: leaves no room for a "
                f"prompt in "
                f"max_model_len = {model.max_model_len}; lower it"
            )
    return None


def _cores(config: RunConfig) -> str | None:
    """The problem with how lists of CPU cores are written, if there is one. The preflight checks
    that the machine has these cores.
    """
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        for part in model.cpu_cores.split(",") if model.cpu_cores else ():
            first, dash, last = part.partition("-")
            numbers = (first, last) if dash else (first,)
            if not all(map(_is_core_number, numbers)) or int(first) > int(last or first):
                return (
                    f"{role}.cpu_cores = {model.cpu_cores}: {part!r} is no core and no "
                    "range of cores; write for example 0-1,3"
                )
    return None


def _is_core_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 6


def _one_process(config: RunConfig) -> str | None:
    """What an inline run cannot do. Without an engine there is no model to train either."""
    for role, model in (("slm", config.slm), ("teacher", config.teacher)):
        if config.cluster.executor == "inline" and model.backend == "vllm":
            return (
                f"{role}.backend = vllm: an engine is a process of its own, which "
                f"cluster.executor = inline does not start; set it to simulated or openai, or "
                f"cluster.executor to ray"
            )
    if config.router is None:
        return None
    return config.cluster.router_problem(config.router.deepspeed.ranks)


def _adapters(config: RunConfig) -> str | None:
    """The problem with adapters that engines cannot take, if there is one."""
    rank = config.adapter_rank
    if rank <= LARGEST_ADAPTER:
        return None
    return (
        f"bc.lora.r + dpo.lora.r = {rank}: an engine adds adapters of at most rank "
        f"{LARGEST_ADAPTER}; lower a rank, or set slm.merge_adapters"
    )


_RULES = (
    _roles,
    _router_labels,
    _served_log,
    _enough_tasks,
    _room_to_answer,
    _cores,
    _one_process,
    _adapters,
)


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a YAML run config and apply `key.path=value` overrides (values are YAML).

    Raises UsageError with one line that names file, key, value and fix.
    """
    return validate(RunConfig, read_mapping(path, overrides), path)
