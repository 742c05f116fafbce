"""Where a run happens. Nothing here changes a result."""

from pydantic import Field

from r2v_dist.config.base import Section


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
