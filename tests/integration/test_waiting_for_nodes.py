"""A real cluster of several nodes, with GPUs that only Ray counts: what finds no room is named, and
nodes that join while a run waits are what it waited for.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from cluster.placement import Bundle

FOUR = Bundle("the slm engine", "slm.tensor_parallel", 4, gpus=4.0)


def test_a_run_waits_for_nodes_and_names_what_is_missing(tmp_path: Path) -> None:
    process = get_context("spawn").Process(target=on_a_cluster, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == 0


def on_a_cluster(folder: Path) -> None:
    """Run in a fresh process: two nodes with two GPUs each, later one with four."""
    from ray.cluster_utils import Cluster

    from cluster import resources
    from cluster.session import ray_session
    from r2v_dist.config.cluster import ClusterConfig
    from r2v_dist.errors import RuntimeFailure

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 2})
    try:
        cluster.add_node(num_cpus=1, num_gpus=2)
        patient = ClusterConfig(address=cluster.address, wait_for_resources_s=120)
        with ray_session(patient, folder / "logs"):
            assert resources.decided().gpus
            assert resources.gpu_share(0.6) == 0.6
            assert resources.must_make_room(4, [Bundle("an engine", "slm", 0.5, gpus=0.5)])
            assert not resources.must_make_room(1, [Bundle("an engine", "slm", 0.5, gpus=0.5)])
            resources.require_room([Bundle("a rank", "bc.deepspeed.ranks", 2, 1.0, 2.0, 2)])
            hasty = patient.model_copy(update={"wait_for_resources_s": 0.0})
            resources.begin(hasty)
            with pytest.raises(
                RuntimeFailure,
                match=r"^slm\.tensor_parallel = 4: .* 2 nodes \(each 2 GPUs, 1 core\)",
            ):
                resources.require_room([FOUR])
            resources.begin(patient)
            with ThreadPoolExecutor(1) as run:
                waits = run.submit(resources.require_room, [FOUR])
                add_what_is_demanded(cluster)
                waits.result()
            assert max(node.gpus for node in resources.nodes()) == 4
            resources.begin(patient.model_copy(update={"gpus": "none"}))
            assert resources.gpu_share(0.6) == 0
    finally:
        cluster.shutdown()


def add_what_is_demanded(cluster: Any) -> None:
    """What an autoscaler does: it reads the demand that nothing answers, and adds such a node."""
    from ray._private.state import state

    while not (demand := pending_gpus(state)):
        threading.Event().wait(0.2)
    cluster.add_node(num_cpus=1, num_gpus=int(max(demand)))


def pending_gpus(state: Any) -> list[float]:
    groups = state.placement_group_table().values()
    pending = [group for group in groups if group["state"] == "PENDING"]
    return [bundle.get("GPU", 0.0) for group in pending for bundle in group["bundles"].values()]
