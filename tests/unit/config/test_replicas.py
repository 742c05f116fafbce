"""Replicas are counted where room is counted, and decide no outcome."""

import pytest

from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.run import load_config
from r2v_dist.errors import UsageError
from tests.runs import ROOT

DEMO = ROOT / "configs" / "textworld_demo.yaml"
WHERE = [
    "slm.replicas=3",
    "slm.pipeline_parallel=2",
    "slm.accelerator_type=H100",
    "slm.label_selector={pool: inference}",
    "verifier.replicas=2",
    "slm.merge_adapters=true",
    "cluster.phases=sleep",
]


def test_where_engines_run_decides_no_outcome() -> None:
    assert load_config(DEMO, WHERE).content_hash() == load_config(DEMO, []).content_hash()


def test_every_replica_asks_for_its_gpus() -> None:
    config = load_config(DEMO, WHERE)
    assert config.gpus == {"slm.tensor_parallel": 2, "verifier.gpu_memory_utilization": 0.3}
    assert config.replicas == {"slm.tensor_parallel": 3, "verifier.gpu_memory_utilization": 2}
    assert config.all_gpus == 6.6


def test_units_that_would_only_wait_are_not_begun() -> None:
    model = ModelConfig.model_validate(
        {"backend": "vllm", "model": "m", "max_num_seqs": 256, "sampling": {"candidates": 5}}
    )
    assert model.requests_at_once == 64
    cluster = ClusterConfig(runners=32, in_flight=16)
    assert cluster.holding(model.requests_at_once).in_flight == 8
    assert cluster.holding(1).in_flight == 1
    assert cluster.holding(10_000) == cluster
    assert cluster.holding(None) == cluster


def test_engines_make_room_for_the_adapters_of_all_learners() -> None:
    full = ROOT / "configs" / "textworld_full.yaml"
    both = ["bc.lora={r: 32}", "dpo.lora={r: 16}"]
    assert load_config(full, []).adapter_rank == 0
    assert load_config(full, both).adapter_rank == 48
    assert load_config(full, [*both, "slm.merge_adapters=true"]).adapter_rank == 0
    on_cpus = [*both, "cluster.gpus=none"]
    assert load_config(full, on_cpus).adapter_rank == 0
    assert load_config(full, [*on_cpus, "slm.merge_adapters=false"]).adapter_rank == 48
    with pytest.raises(
        UsageError, match=r"bc.lora.r \+ dpo.lora.r = 1024: an engine adds adapters"
    ):
        load_config(full, ["bc.lora={r: 1024}"])


@pytest.mark.parametrize("cpu", ["cluster.gpus=none", "cluster.executor=inline"])
def test_on_cpus_no_engine_sleeps(cpu: str) -> None:
    simulated = ROOT / "configs" / "textworld_simulated.yaml"
    with pytest.raises(UsageError, match="cluster: phases = sleep: engines on CPUs keep running"):
        load_config(simulated, ["cluster.phases=sleep", cpu])
