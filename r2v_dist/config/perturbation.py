"""Perturbations: operators, rates and seeds."""

from typing import Annotated

from pydantic import Field

from r2v_dist.config.base import Section
from r2v_dist.config.env import SEED_BLOCK


class PerturbConfig(Section):
    """Perturbation operators and seeds. Splits never share a seed; envs/tasks.py assigns them."""

    rates: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """Probability a step of each operator; an operator that is not named has its default rate."""
    train_seeds: int = Field(20, ge=1, le=SEED_BLOCK)
    validation_seeds: int = Field(10, ge=1, le=SEED_BLOCK)
    test_seeds: int = Field(10, ge=1, le=SEED_BLOCK)
    """Seeds of test and calibration tasks."""
    quota: int | None = Field(None, ge=0, le=10_000)
    """Most perturbed steps in an episode; null for no limit."""
    cooldown: int = Field(0, ge=0, le=10_000)
    """Steps without perturbation after each perturbed step."""
