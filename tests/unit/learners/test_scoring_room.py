"""What scores rows finds room beside engines that sleep, as a rank does."""

import pytest

from cluster import resources
from cluster.resources import Decided
from learners.common.scoring import OnCluster
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.deepspeed import DeepSpeedConfig


@pytest.mark.parametrize("learner", ["bc", "dpo", "verifier"])
def test_it_asks_for_what_sleeping_engines_leave_of_a_gpu(
    learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_session", Decided(ClusterConfig(), True, rank_gpu=0.4))
    assert OnCluster(learner, DeepSpeedConfig()).options(gpu=True)["num_gpus"] == 0.4


def test_it_asks_for_no_gpu_where_models_run_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_session", Decided(ClusterConfig(), False))
    assert OnCluster("bc", DeepSpeedConfig()).options(gpu=False)["num_gpus"] == 0
