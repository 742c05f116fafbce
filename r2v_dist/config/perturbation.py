"""Perturbations: operators, rates and seeds."""

from typing import Annotated

from pydantic import Field

from r2v_dist.config.base import Section
from r2v_dist.config.env import SEED_BLOCK, Split

TEST_BLOCKS = 2**31 // SEED_BLOCK - 2
"""Blocks of perturbation seeds for test tasks: as many as the store's 32-bit column holds beside
the blocks of training and validation.
"""


class PerturbConfig(Section):
    """Perturbation operators and seeds. Splits never share a seed."""

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

    def seeds(self, split: Split, run_seed: int) -> list[int]:
        """Perturbation seeds of a split, consecutive numbers from the start of the split's block.

            train                0, 1, 2, ...
            validation           1000, 1001, 1002, ...
            test, calibration    1000 * (2 + run_seed % TEST_BLOCKS), ...

        Test seeds change with the seed of the run, as its games do: what was tuned under one seed
        has met the test seeds of no other, for run seeds below TEST_BLOCKS (2,147,481) without
        exception. Calibration tasks meet the test seeds: the certificate speaks of new tasks under
        these seeds.
        """
        test = (self.test_seeds, 2 + run_seed % TEST_BLOCKS)
        count, block = {
            "train": (self.train_seeds, 0),
            "validation": (self.validation_seeds, 1),
            "calibration": test,
            "test": test,
        }[split]
        return [SEED_BLOCK * block + i for i in range(count)]
