"""Processes that compute on CPUs see no GPU, and a cluster that is joined keeps its way to ask for
a token.
"""

from cluster import environment
from r2v_dist.config.cluster import ClusterConfig


def test_who_requests_no_gpu_sees_none() -> None:
    for variables in (
        environment.of_engine(on_gpu=False),
        environment.of_scorer(1, on_gpu=False),
        environment.of_rank(1, on_gpu=False),
    ):
        assert variables["CUDA_VISIBLE_DEVICES"] == ""
    for variables in (
        environment.of_engine(on_gpu=True),
        environment.of_scorer(1, on_gpu=True),
        environment.of_rank(1, on_gpu=True),
    ):
        assert "CUDA_VISIBLE_DEVICES" not in variables


def test_a_joined_cluster_decides_about_tokens_and_announces_what_goes() -> None:
    joined = environment.of_driver(ClusterConfig(address="auto"))
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", environment.PREEMPTION_WATCHER} & set(joined)
    alone = environment.of_driver(ClusterConfig())
    assert alone["RAY_AUTH_MODE"] == "token"
    assert len(alone["RAY_AUTH_TOKEN"]) == 64
    assert alone[environment.PREEMPTION_WATCHER] == "0"


def test_a_start_of_ranks_waits_as_long_as_is_configured() -> None:
    patient = environment.of_driver(ClusterConfig(wait_for_resources_s=77))
    assert patient["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "77.0"
    hasty = environment.of_driver(ClusterConfig(wait_for_resources_s=0))
    assert hasty["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "60.0"
