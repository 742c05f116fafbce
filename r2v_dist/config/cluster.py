"""Where a run happens. Nothing here changes a result."""

from typing import Literal, Self

from pydantic import Field, model_validator

from r2v_dist.config.base import Section


class ClusterConfig(Section):
    """Where the run happens. Changing this section changes no result."""

    executor: Literal["ray", "inline"] = "ray"
    """`inline` runs everything in one process and without Ray, so that a breakpoint holds anywhere.
    It takes runs without a vLLM engine and without a model to train, and one rank for the router.
    """
    address: str = ""
    """A Ray address (`auto`, `ray://host:10001`); empty starts Ray on this machine."""
    num_cpus: int | None = Field(None, ge=1, le=1_000_000)
    runners: int = Field(2, ge=1, le=10_000)
    in_flight: int = Field(12, ge=1, le=10_000)
    """Units (task x seed) under way at once on one runner."""
    memory_gib: float = Field(6.0, gt=0, le=1e6)
    """What the run needs; it refuses to start with less available."""
    max_restarts: int = Field(3, ge=0, le=1000)
    """Failures of machines that one unit may meet, and deaths of processes in which nothing is
    finished, before a stage stops."""
    max_quarantined: int = Field(3, ge=0, le=1_000_000)
    """Tasks of a stage that may be given up because their environment fails wherever it is played;
    their episodes count as failures. With one more the run stops and names them."""
    unit_timeout_s: float = Field(600.0, gt=0, le=1e6)
    """Longest time that a unit may take, answers of models included."""
    env_deadline_s: float = Field(120.0, gt=0, le=1e6)
    """Longest time that one call into an environment may hold its runner; past it the runner's
    process ends, and its log shows where it was."""
    node_rest_s: float = Field(60.0, gt=0, le=1e6)
    """Time after which an excluded node is tried again; it doubles with every exclusion."""
    runner_start_deadline_s: float = Field(300.0, gt=0, le=1e6)
    """Longest time for an env runner to be placed, to start and to take a new router."""
    commit_deadline_s: float = Field(120.0, gt=0, le=1e6)
    """Longest time for the collector to take episodes or to write them."""
    stall_deadline_s: float = Field(900.0, gt=0, le=1e6)
    """Longest time in which no unit is finished, at least one and a half unit_timeout_s."""
    shard_episodes: int = Field(256, ge=1, le=1_000_000)
    shard_seconds: float = Field(5.0, gt=0, le=1e6)
    lease_s: float = Field(60.0, ge=1, le=86_400)
    """Seconds without a sign of life after which another driver may take over the run directory.
    The driver gives four in that time.
    """

    def router_problem(self, ranks: int) -> str | None:
        """Why a router of so many ranks cannot be trained here; None where it can."""
        if self.executor == "ray" or ranks == 1:
            return None
        return (
            f"router.deepspeed.ranks = {ranks}: cluster.executor = inline has one process; set 1, "
            f"or cluster.executor to ray"
        )

    @model_validator(mode="after")
    def _joins_with_ray_alone(self) -> Self:
        if self.executor == "inline" and self.address:
            raise ValueError(
                f"address = {self.address}: an inline run joins no cluster; leave it empty, or set "
                f"executor to ray"
            )
        return self
