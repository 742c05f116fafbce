"""Where a run happens. Nothing here changes a result."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from r2v_dist.config.base import Section

_UNITS_FOR_A_REQUEST = 4
"""Units in flight for each request that the engines hold: others are in their games, or ask another
model."""


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
    """Units (task x seed) under way at once on one runner; fewer where that is more than four times
    what the engines hold at once.
    """
    memory_gib: float = Field(6.0, gt=0, le=1e6)
    """What the run needs; it refuses to start with less available."""
    max_restarts: int = Field(3, ge=0, le=1000)
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
    shard_episodes: int = Field(256, ge=1, le=1_000_000)
    shard_seconds: float = Field(5.0, gt=0, le=1e6)
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

    @model_validator(mode="after")
    def _joins_with_ray_alone(self) -> Self:
        if self.executor == "inline" and self.address:
            raise ValueError(
                f"address = {self.address}: an inline run joins no cluster; leave it empty, or set "
                f"executor to ray"
            )
        return self
