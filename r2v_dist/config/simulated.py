"""Configuration of a simulated router run: routers trained and judged on a world whose every
probability is known.

A YAML file with `kind: simulated_router` is one. Loading imports nothing heavy.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from r2v_dist.config.base import Section, distinct, validate
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.env import LARGEST_SEED, SEED_BLOCK
from r2v_dist.config.learners import CONSTRAINT_STATUSES, MOST_BRANCHES
from r2v_dist.config.places import UserPath
from r2v_dist.config.router import RouterConfig
from r2v_dist.config.yaml_file import read_mapping
from r2v_dist.seeding import short_hash

KIND = "simulated_router"
_MOST_TASKS = 1_000_000
SLM_PRICE = 1 / 50
"""Price of an SLM call, in teacher calls; a constant of the world."""
RouterName = Literal["r2v", "r2v_no_cvar", "r2v_no_brier", "r2v_uncalibrated", "r2v_joint"]


def _little_memory(section: Any) -> Any:
    """The default of memory_gib is low, also where other keys of the section are given."""
    return {"memory_gib": 1.0} | section if isinstance(section, dict) else section


class SimulatedConfig(Section):
    """A whole simulated run."""

    kind: Literal["simulated_router"]
    run_dir: UserPath = Path("runs/simulated")
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Seed of tasks, labels and training."""
    train_tasks: int = Field(200, ge=5, le=_MOST_TASKS)
    validation_tasks: int = Field(2000, ge=5, le=_MOST_TASKS)
    test_tasks: int = Field(1000, ge=5, le=_MOST_TASKS)
    """Tasks of the paired interval; every other number is exact."""
    seeds: int = Field(20, ge=10, le=SEED_BLOCK)
    branches: int = Field(3, ge=1, le=MOST_BRANCHES)
    """n, the number of branches of each kind at a training or validation state."""
    routers: Annotated[tuple[RouterName, ...], Field(min_length=1), AfterValidator(distinct)] = (
        "r2v",
        "r2v_no_cvar",
        "r2v_no_brier",
        "r2v_uncalibrated",
        "r2v_joint",
    )
    router: RouterConfig = RouterConfig()
    cluster: Annotated[ClusterConfig, BeforeValidator(_little_memory)] = ClusterConfig(
        memory_gib=1.0
    )

    @model_validator(mode="after")
    def _as_the_world_is(self) -> Self:
        if self.router.surrogate != "latched":
            raise ValueError(
                "router.surrogate: the routers of a simulated run are latched; set latched"
            )
        if self.router.score == "validated":
            raise ValueError(
                "router.score = validated: a simulated run plays no validation tasks; name a score"
            )
        if abs(self.router.slm_cost / self.router.teacher_cost - SLM_PRICE) > 1e-12:
            raise ValueError(
                f"router.slm_cost: in the simulated world an SLM call costs {SLM_PRICE:g} teacher "
                f"calls; keep that ratio"
            )
        episodes = min(self.train_tasks, self.validation_tasks) * self.seeds
        if episodes < self.router.deepspeed.ranks:
            raise ValueError(
                f"router.deepspeed.ranks = {self.router.deepspeed.ranks}: there are {episodes} "
                f"episodes; use fewer ranks"
            )
        if problem := self.cluster.router_problem(self.router.deepspeed.ranks):
            raise ValueError(problem)
        return self

    @property
    def needs_ray(self) -> bool:
        """Whether training starts ranks, here or on a cluster; otherwise this process trains."""
        return self.router.deepspeed.ranks > 1 or bool(self.cluster.address)

    @property
    def folder(self) -> Path:
        """Folder of the labels and routers of this configuration. Another configuration has another
        folder.
        """
        content = self.model_dump(
            mode="json", exclude={"run_dir", "cluster", "routers", "test_tasks"}
        )
        content["router"] = self.router.content()
        decided = json.dumps([content, CONSTRAINT_STATUSES], sort_keys=True)
        return self.run_dir / short_hash(decided)[:12]


def load_simulated(path: Path, overrides: list[str]) -> SimulatedConfig | None:
    """A simulated run's configuration, None where the file is of another kind. Raises UsageError
    with one line.
    """
    raw = read_mapping(path, overrides)
    return validate(SimulatedConfig, raw, path) if raw.get("kind") == KIND else None
