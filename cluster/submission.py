"""A run as a job: its id, and what a driver on the cluster reads.

Invariant: the id is a function of the resolved configuration and the run directory alone. Where and
how fast the run happens is no part of it.
"""

import json
import re

import yaml

from r2v_dist.config.run import RunConfig
from r2v_dist.config.simulated import KIND, SimulatedConfig
from r2v_dist.errors import UsageError
from r2v_dist.seeding import short_hash

PREFIX = "r2v-"
_LONGEST_NAME = 30
"""KubeRay takes names of at most 47 characters, and an id is the name of its RayJob."""
_HASH_DIGITS = 10


def job_id(config: RunConfig | SimulatedConfig) -> str:
    """The id of the first job of a run."""
    content = config.model_dump(mode="json", exclude={"cluster"})
    name = KIND if isinstance(config, SimulatedConfig) else config.name
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return (
        f"{PREFIX}{slug or 'run'}-{short_hash(json.dumps(content, sort_keys=True))[:_HASH_DIGITS]}"
    )


def require_submittable(config: RunConfig | SimulatedConfig) -> None:
    """Raises UsageError for a run that cannot be a job.

    A relative run directory would lie in a folder that the cluster makes for the job and removes
    after it.
    """
    if config.cluster.executor == "inline":
        raise UsageError(
            "cluster.executor = inline: a job joins the cluster that it runs on; set it to ray, or "
            "use `r2v run`"
        )
    if not config.run_dir.is_absolute():
        raise UsageError(
            f"run_dir = {config.run_dir}: a job needs an address such as s3://bucket/run, or an "
            f"absolute path on storage that every node sees; write for example "
            f"run_dir=/shared/{config.run_dir}"
        )


def config_text(config: RunConfig | SimulatedConfig) -> str:
    """The resolved configuration as YAML, for a driver that joins the cluster it runs on."""
    content = config.model_dump(mode="json")
    content["cluster"]["address"] = "auto"
    return yaml.safe_dump(content, sort_keys=False)
