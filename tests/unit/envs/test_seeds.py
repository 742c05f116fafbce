"""Which perturbation seeds a split has: apart by construction, and new for the tests of another run
seed.
"""

from itertools import combinations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from r2v_dist.config.env import SEED_BLOCK, SPLITS
from r2v_dist.config.perturbation import TEST_BLOCKS, PerturbConfig
from r2v_dist.storage.step_table import SCHEMA

FULL = PerturbConfig(train_seeds=SEED_BLOCK, validation_seeds=SEED_BLOCK, test_seeds=SEED_BLOCK)
RUN_SEEDS = st.integers(0, 2**31 - 1)


@given(RUN_SEEDS)
@example(0)
@example(TEST_BLOCKS - 1)
@example(TEST_BLOCKS)
@example(2**31 - 1)
@settings(max_examples=100)
def test_splits_never_share_a_seed_and_all_fit_the_store(run_seed: int) -> None:
    drawn = {split: FULL.seeds(split, run_seed) for split in SPLITS}
    assert drawn.pop("calibration") == drawn["test"]
    for one, other in combinations(drawn.values(), 2):
        assert not set(one) & set(other)
    for zs in drawn.values():
        assert len(set(zs)) == SEED_BLOCK
        assert min(zs) >= 0
        pa.array(zs, SCHEMA.field("z").type)


def test_training_and_validation_seeds_are_those_of_every_run() -> None:
    config = PerturbConfig(train_seeds=3, validation_seeds=2, test_seeds=2)
    for run_seed in (0, 4, 91733):
        assert config.seeds("train", run_seed) == [0, 1, 2]
        assert config.seeds("validation", run_seed) == [1000, 1001]
    assert config.seeds("test", 0) == [2000, 2001]
    assert config.seeds("test", 4) == config.seeds("test", 4) == [6000, 6001]


def test_run_seeds_differ_in_their_test_seeds() -> None:
    config = PerturbConfig(test_seeds=1)
    first = {config.seeds("test", run_seed)[0] for run_seed in range(5000)}
    assert len(first) == 5000


@given(st.lists(st.integers(0, TEST_BLOCKS - 1), min_size=2, max_size=2, unique=True))
@settings(max_examples=100)
def test_two_runs_share_no_test_seed(pair: list[int]) -> None:
    one, other = pair
    assert not set(FULL.seeds("test", one)) & set(FULL.seeds("test", other))


@pytest.mark.parametrize("key", ["train_seeds", "validation_seeds", "test_seeds"])
def test_a_split_keeps_to_its_block(key: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1000"):
        PerturbConfig(**{key: SEED_BLOCK + 1})
