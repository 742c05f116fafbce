"""What a run requests follows from its configuration and from what the session decided, and what a
cluster can never place is refused by the key that asks for it.
"""

from pathlib import Path

import pytest

from cluster.placement import Node
from cluster.resources import on_gpus, placement_problem, rank_bundle
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.run import load_config
from tests.runs import ROOT


def here(cpus: float, gpus: float) -> list[Node]:
    return [Node("here", cpus, gpus)]


@pytest.mark.parametrize(
    "key",
    [
        "bc.deepspeed.ranks",
        "dpo.deepspeed.ranks",
        "router.deepspeed.ranks",
        "verifier.training.deepspeed.ranks",
    ],
)
def test_the_key_of_ranks_without_a_core_is_named(key: str) -> None:
    batches = ["dpo.batch_size=32", "verifier.training.batch_size=64", "bc.batch_size=64"]
    overrides = [f"{key}=4", "router.deepspeed.zero_stage=0", *batches]
    config = load_config(ROOT / "configs" / "textworld_demo.yaml", overrides)
    assert placement_problem(config, here(4, 0), gpus=False) is None
    problem = placement_problem(config, here(2, 4), gpus=True)
    assert problem is not None
    assert problem.startswith(f"{key} = 4: ")
    assert "\n" not in problem


def test_ranks_never_fall_back_to_cores() -> None:
    batches = ["bc.batch_size=64"]
    config = load_config(
        ROOT / "configs" / "textworld_demo.yaml", ["bc.deepspeed.ranks=4", *batches]
    )
    assert placement_problem(config, here(16, 4), gpus=True) is None
    problem = placement_problem(config, here(16, 3), gpus=True)
    assert problem is not None
    assert "bc.deepspeed.ranks = 4: a rank needs 1 GPU and 1 core each" in problem
    assert "set cluster.gpus to none" in problem


def test_a_router_takes_no_gpu() -> None:
    assert rank_bundle("router", 2, gpus=True).gpus == 0
    assert rank_bundle("bc", 2, gpus=True).gpus == 1


def test_gpus_are_decided_by_the_configuration() -> None:
    for there in (here(2, 0), here(2, 8), []):
        assert on_gpus(ClusterConfig(gpus="require"), there)
        assert not on_gpus(ClusterConfig(gpus="none"), there)
    assert on_gpus(ClusterConfig(), here(2, 1))
    assert not on_gpus(ClusterConfig(), here(2, 0))


def test_a_run_has_only_the_learners_it_asks_for() -> None:
    config = load_config(Path(ROOT / "configs" / "textworld_simulated.yaml"), ["router=null"])
    assert placement_problem(config, here(1, 0), gpus=False) is None
