"""Where a run happens. Nothing here changes a result."""

import math
import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from r2v_dist.config.base import Section, distinct

_UNITS_FOR_A_REQUEST = 4
"""Units in flight for each request that the engines hold: others are in their games, or ask another
model."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DECIDED = ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "RAY_")
"""Beginnings of environment variables that `cluster.gpus` and the Ray session set."""


Tracker = Literal["tensorboard", "wandb", "mlflow"]
"""What Hugging Face's trainers can report to."""


class MetricsConfig(Section):
    """What a run tells Prometheus through Ray. docs/monitoring.md lists the metrics."""

    enabled: bool = True
    """Whether dispatcher, collector, engines' probes and learners record metrics."""
    port: int | None = Field(None, ge=1, le=65_535)
    """Port of the metrics of Ray that the run starts on this machine; None for a free one. Nodes
    of a joined cluster have that of their `ray start --metrics-export-port`.
    """
    vllm: bool = False
    """Whether engines record vLLM's own metrics too, at each of their steps."""


class ClusterConfig(Section):
    """Where the run happens. Changing this section changes no result."""

    executor: Literal["ray", "inline"] = "ray"
    """`inline` runs everything in one process and without Ray, so that a breakpoint holds anywhere.
    It takes runs without a vLLM engine and without a model to train, and one rank for the router.
    """
    address: str = ""
    """A Ray address (`auto`, `host:6379`); empty starts Ray on this machine. The driver reads
    checkpoints and episodes from its own disk, so it runs on a node of the cluster.
    """
    gpus: Literal["auto", "require", "none"] = "auto"
    """Where models run. `require`: on GPUs, which are requested whatever the cluster has at the
    moment. `none`: on CPUs, though there may be GPUs. `auto`: decided once, when the run begins:
    `require` where a node has a GPU, else `none`; a run that began with GPUs continues with them.
    """
    phases: Literal["restart", "sleep"] = "restart"
    """GPUs only: what engines do while a learner has their GPUs. `restart`: they end and start
    again. `sleep`: their processes stay and give back their memory (vLLM's sleep mode, level 2);
    every GPU then holds one engine of each model, of one rank.
    """
    wait_for_resources_s: float = Field(600.0, ge=0, le=1e6)
    """Longest wait, in seconds, for nodes of a joined cluster that have what is requested, and of
    ranks for cores and GPUs that others hold (at least 60).
    """
    collective_timeout_s: int = Field(1800, ge=1, le=1_000_000)
    """Longest wait of a rank for the others, in one operation of NCCL or Gloo, in seconds."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of engines, verifier and ranks, for example {NCCL_SOCKET_IFNAME: eth0};
    they also have those under which their node was started.
    """
    num_cpus: int | None = Field(None, ge=1, le=1_000_000)
    runners: int = Field(2, ge=1, le=10_000)
    """Env runners; there are fewer while not all find a place."""
    min_runners: int = Field(1, ge=1, le=10_000)
    """Env runners without which a run does not go on. Others that have not started within
    runner_start_deadline_s are left out, with a warning, until the next stage begins."""
    in_flight: int = Field(12, ge=1, le=10_000)
    """Units (task x seed) under way at once on one runner; fewer where that is more than four times
    what the engines hold at once.
    """
    memory_gib: float = Field(6.0, gt=0, le=1e6)
    """What the run needs; it refuses to start with less available."""
    max_restarts: int = Field(3, ge=0, le=1000)
    """Failures of machines that one unit may meet, and deaths of processes in which nothing is
    finished, before a stage stops."""
    max_quarantined: int = Field(3, ge=0, le=1_000_000)
    """Tasks of a stage that may be given up because their environment fails wherever it is played;
    their episodes count as failures. With one more the run stops and names them."""
    unit_timeout_s: float = Field(600.0, gt=0, le=1e6)
    """Longest time that a unit may take, in seconds. Its waits for vLLM engines and trained
    verifiers do not count, which have deadlines of their own.
    """
    engine_start_deadline_s: float = Field(600.0, gt=0, le=1e6)
    """Longest time for an engine to be placed and to load its model."""
    engine_load_deadline_s: float = Field(300.0, gt=0, le=1e6)
    """Longest time for an engine to take other weights; past it the engine is started anew."""
    engine_probe_deadline_s: float = Field(5.0, gt=0, le=1e6)
    """Time in which an engine must say that it lives, however busy it is; one that does not three
    times in a row is started anew.
    """
    env_deadline_s: float = Field(120.0, gt=0, le=1e6)
    """Longest time that one call into an environment may hold its runner; past it the runner's
    process ends, and its log shows where it was."""
    node_rest_s: float = Field(60.0, gt=0, le=1e6)
    """Time after which an excluded node is tried again; it doubles with every exclusion."""
    runner_start_deadline_s: float = Field(300.0, gt=0, le=1e6)
    """Longest time for an env runner to be placed, to start and to take a new router."""
    collectors: int = Field(1, ge=1, le=1000)
    """Processes that write episodes; each takes those of its tasks. One takes some thousand steps
    per second."""
    commit_deadline_s: float = Field(120.0, gt=0, le=1e6)
    """Longest time for a collector to take episodes or to write them."""
    stall_deadline_s: float = Field(900.0, gt=0, le=1e6)
    """Longest time in which no unit is finished, at least one and a half unit_timeout_s."""
    storage_deadline_s: float = Field(120.0, ge=1, le=3600)
    """Longest time for the store behind a run_dir such as s3://bucket/run to answer one request,
    with all tries."""
    shard_episodes: int = Field(256, ge=1, le=1_000_000)
    shard_seconds: float = Field(5.0, gt=0, le=1e6)
    metrics: MetricsConfig = MetricsConfig()
    report_to: tuple[Tracker, ...] = ()
    """Where the learners of SLM and verifier log as they train, besides RUN/stages. How these are
    reached is in their own environment variables, which `env` may hold.
    """
    lease_s: float = Field(60.0, ge=1, le=86_400)
    """Seconds without a sign of life after which another driver may take over the run directory.
    The driver gives four in that time.
    """

    def holding(self, requests: int | None) -> Self:
        """This section with so few units in flight that those which wait for engines do not wait
        for long: the others wait before they begin, where no deadline runs. `requests` are what the
        engines hold at once; None for no such limit.
        """
        if requests is None:
            return self
        share = max(1, math.ceil(_UNITS_FOR_A_REQUEST * requests / self.runners))
        return self.model_copy(update={"in_flight": min(self.in_flight, share)})

    def router_problem(self, ranks: int) -> str | None:
        """Why a router of so many ranks cannot be trained here; None where it can."""
        if self.executor == "ray" or ranks == 1:
            return None
        return (
            f"router.deepspeed.ranks = {ranks}: cluster.executor = inline has one process; set 1, "
            f"or cluster.executor to ray"
        )

    @field_validator("address")
    @classmethod
    def _is_no_ray_client(cls, address: str) -> str:
        if address.startswith("ray://"):
            raise ValueError(
                "a Ray Client reads no files of the cluster; run on a node of the cluster with "
                "`auto`, or submit the run as a job"
            )
        return address

    @field_validator("report_to")
    @classmethod
    def _differ(cls, trackers: tuple[Tracker, ...]) -> tuple[Tracker, ...]:
        return distinct(trackers)

    @field_validator("env")
    @classmethod
    def _leaves_what_is_decided(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable; correct it")
            if name.startswith(_DECIDED):
                raise ValueError(
                    f"variable {name} follows from cluster.gpus and the Ray session; leave it out"
                )
        return env

    @model_validator(mode="after")
    def _has_runners_enough(self) -> Self:
        if self.min_runners > self.runners:
            raise ValueError(
                f"min_runners = {self.min_runners}: there are {self.runners} runners at most; "
                f"lower it, or raise runners"
            )
        return self

    @model_validator(mode="after")
    def _sleeps_on_gpus(self) -> Self:
        if self.phases == "sleep" and (self.gpus == "none" or self.executor == "inline"):
            raise ValueError(
                "phases = sleep: engines on CPUs keep running beside learners; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _has_a_port_of_its_own(self) -> Self:
        if self.metrics.port is not None and self.address:
            raise ValueError(
                f"metrics.port = {self.metrics.port}: nodes of a joined cluster have the port of "
                f"their `ray start --metrics-export-port`; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _joins_with_ray_alone(self) -> Self:
        if self.executor == "inline" and self.address:
            raise ValueError(
                f"address = {self.address}: an inline run joins no cluster; leave it empty, or set "
                f"executor to ray"
            )
        return self
