"""What a run requests follows from its configuration and from what the session decided, and what a
cluster can never place is refused by the key that asks for it.
"""

from pathlib import Path

import pytest

from cluster import resources
from cluster.placement import Node
from cluster.resources import (
    Decided,
    must_make_room,
    on_gpus,
    placement_problem,
    rank_bundle,
    rank_resources,
    rollout_bundles,
    sleeping_share,
)
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
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


@pytest.mark.parametrize("phases", ["restart", "sleep"])
def test_a_router_takes_no_gpu_and_no_engine_makes_room_for_it(
    phases: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(
        ROOT / "configs" / "textworld_demo.yaml", [f"cluster={{phases: {phases}, gpus: require}}"]
    )
    monkeypatch.setattr(resources, "_session", Decided(config.cluster, True, rank_gpu=0.4))
    assert rank_bundle("router", 2, gpus=True).gpus == 0
    assert rank_bundle("bc", 2, gpus=True).gpus == 1
    assert rank_resources("router") == {"CPU": 1}
    assert rank_resources("bc") == {"CPU": 1, "GPU": 0.4}
    held = rollout_bundles(config, True, here(2, 1))
    assert sum(bundle.gpus for bundle in held) == pytest.approx(0.9)
    assert not must_make_room(ranks=0, rollout=held)


def test_ranks_take_what_sleeping_engines_leave_of_a_gpu() -> None:
    demo = ROOT / "configs" / "textworld_demo.yaml"
    sleep = "cluster.phases=sleep"
    assert sleeping_share(load_config(demo, [sleep]), here(8, 1), gpus=True) == 0.4
    four = load_config(demo, [sleep, "slm.replicas=4"])
    assert sleeping_share(four, here(8, 4), gpus=True) == 0.4


@pytest.mark.parametrize(
    ("overrides", "there", "gpus", "part"),
    [
        ([], here(8, 0), False, "models run on CPUs here"),
        ([], here(8, 4), True, "slm.replicas = 1: with cluster.phases = sleep each of the 4 GPUs"),
        (["slm.tensor_parallel=2"], here(8, 2), True, "an engine of several ranks cannot sleep"),
        (["slm.gpu_memory_utilization=1"], here(8, 1), True, "a rank needs a share of the GPU"),
        (
            ["slm.gpu_memory_utilization=0.5", "slm.replicas=2"],
            here(8, 2),
            True,
            "raise slm.gpu_memory_utilization above 0.5",
        ),
    ],
)
def test_engines_that_cannot_sleep_are_refused(
    overrides: list[str], there: list[Node], gpus: bool, part: str
) -> None:
    config = load_config(
        ROOT / "configs" / "textworld_demo.yaml", ["cluster.phases=sleep", *overrides]
    )
    with pytest.raises(UsageError, match=part) as raised:
        sleeping_share(config, there, gpus)
    assert "\n" not in str(raised.value)


def test_gpus_are_decided_by_the_configuration() -> None:
    for there in (here(2, 0), here(2, 8), []):
        assert on_gpus(ClusterConfig(gpus="require"), there)
        assert not on_gpus(ClusterConfig(gpus="none"), there)
    assert on_gpus(ClusterConfig(), here(2, 1))
    assert not on_gpus(ClusterConfig(), here(2, 0))


def test_a_run_has_only_the_learners_it_asks_for() -> None:
    config = load_config(Path(ROOT / "configs" / "textworld_simulated.yaml"), ["router=null"])
    assert placement_problem(config, here(1, 0), gpus=False) is None
