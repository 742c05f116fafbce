"""Perturbations: operators, rates and seeds."""

from typing import Annotated

from pydantic import Field

from r2v_dist.config.base import Section
from r2v_dist.config.env import SEED_BLOCK


class PerturbConfig(Section):
    """Perturbation operators and seeds. Splits never share a seed; envs/tasks.py says which they
    have.
    """

    rates: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """Probability that an operator acts at a step, by operator; one that is not named has its
    default rate.
    """
    train_seeds: int = Field(20, ge=1, le=SEED_BLOCK)
    validation_seeds: int = Field(10, ge=1, le=SEED_BLOCK)
    test_seeds: int = Field(10, ge=1, le=SEED_BLOCK)
    """Perturbation seeds of test tasks and of calibration tasks."""
    quota: int | None = Field(None, ge=0, le=10_000)
    cooldown: int = Field(0, ge=0, le=10_000)
