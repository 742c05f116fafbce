"""Replicas are counted where room is counted, and decide no outcome."""

from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.run import load_config
from tests.runs import ROOT

DEMO = ROOT / "configs" / "textworld_demo.yaml"
WHERE = [
    "slm.replicas=3",
    "slm.pipeline_parallel=2",
    "slm.accelerator_type=H100",
    "slm.label_selector={pool: inference}",
    "verifier.replicas=2",
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
