"""A node that is announced to go: its rank saves before, and the learner ends on another node."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

NOTICE_S = 20


@pytest.mark.slow
def test_a_rank_saves_before_its_node_goes_and_ends_on_another(tmp_path: Path) -> None:
    process = get_context("spawn").Process(target=on_a_cluster, args=(tmp_path,))
    process.start()
    process.join(300)
    assert process.exitcode == 0


def on_a_cluster(folder: Path) -> None:
    """Run in a fresh process: the rank starts on one of two nodes, which is then drained."""
    import ray
    from ray.cluster_utils import Cluster

    from cluster.session import ray_session
    from learners.common.ray_train import run_ranks
    from r2v_dist.config.cluster import ClusterConfig
    from r2v_dist.config.deepspeed import DeepSpeedConfig

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        config = ClusterConfig(address=cluster.address, max_restarts=0)
        with ray_session(config, folder / "logs"), ThreadPoolExecutor(1) as pool:
            loop = rank_loop(folder)
            training = pool.submit(run_ranks, loop, DeepSpeedConfig(), "bc", folder / "train")
            while not (folder / "began").is_file() and not training.done():
                threading.Event().wait(0.2)
            first = (folder / "began").read_text()
            deadline = time.time() + NOTICE_S
            drain(ray.get_runtime_context().gcs_address, first, deadline)
            training.result()
            assert float((folder / "saved").read_text()) < deadline
            assert (folder / "ended").read_text() not in ("", first)
    finally:
        cluster.shutdown()


def rank_loop(folder: Path) -> Callable[[], None]:
    """Steps without end, until there is a checkpoint to end from."""

    def loop() -> None:  # local, so that it travels with its code
        from types import SimpleNamespace

        import ray

        from learners.common.preemption import preemption_watch

        here = ray.get_runtime_context().get_node_id()
        if (folder / "saved").is_file():
            (folder / "ended").write_text(here)
            return
        (folder / "began").write_text(here)
        watch = preemption_watch()
        while True:
            time.sleep(0.1)
            control = SimpleNamespace(should_save=False)
            watch.on_step_end(SimpleNamespace(device="cpu"), None, control)
            if control.should_save:
                (folder / "saved").write_text(str(time.time()))

    return loop


def drain(gcs_address: str, node: str, deadline: float) -> None:
    """What a cloud's notice of a spot instance comes to."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason: Any = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = GcsClient(address=gcs_address)
    accepted, problem = client.drain_node(node, reason, "a test", int(deadline * 1000))
    assert accepted, problem
