"""Ranks that a cluster could never place are refused by the key that asks for them."""

from pathlib import Path

import pytest

from cluster.resources import Resources, placement_problem, require_ranks
from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
from tests.runs import ROOT


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("bc", "bc.deepspeed.ranks"),
        ("dpo", "dpo.deepspeed.ranks"),
        ("router", "router.deepspeed.ranks"),
        ("verifier", "verifier.training.deepspeed.ranks"),
    ],
)
def test_the_key_is_named_and_means_this_learner(name: str, key: str) -> None:
    batches = ["dpo.batch_size=32", "verifier.training.batch_size=64", "bc.batch_size=64"]
    overrides = [f"{key}=4", "router.deepspeed.zero_stage=0", *batches]
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", overrides)
    assert placement_problem(config, Resources(4, 0)) is None
    assert placement_problem(config, Resources(2, 4)) is None
    problem = placement_problem(config, Resources(2, 0))
    assert problem is not None
    assert problem.startswith(f"{key} = 4: ")
    with pytest.raises(UsageError, match=rf"^{key} = 4: the cluster has 2 CPU cores") as raised:
        require_ranks(name, 4, Resources(2, 0))
    assert "\n" not in str(raised.value)


def test_ranks_that_fit_take_gpus_where_each_finds_one() -> None:
    assert not require_ranks("bc", 2, Resources(2, 0))
    assert not require_ranks("bc", 2, Resources(2, 1))
    assert require_ranks("bc", 2, Resources(2, 2))


def test_a_run_has_only_the_learners_it_asks_for() -> None:
    config = load_config(Path(ROOT / "configs" / "textworld_simulated.yaml"), ["router=null"])
    assert placement_problem(config, Resources(0, 0)) is None
