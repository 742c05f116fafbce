"""A cluster of raylets on this machine, of which one after the other is killed.

Invariant: the head, to which the driver belongs, lives; a node that was killed is replaced at once.
"""

import contextlib
import os
import random
import signal
from collections.abc import Sequence
from typing import Any, Self

import psutil

_HEAD = {"num_cpus": 0, "include_dashboard": False}
_RAY = {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "120"}


class Nodes:
    """Two nodes beside the head while the block runs."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._cluster: Any = None

    @property
    def address(self) -> str:
        """Of the cluster."""
        return str(self._cluster.address)

    def __enter__(self) -> Self:
        self._cluster = started_head(_HEAD)
        for _ in range(2):
            self._cluster.add_node(num_cpus=2)
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    def kill_one(self, pids: Sequence[int]) -> None:
        """Kill the raylet of any node that has one of the processes, and start another node."""
        parents = {psutil.Process(pid).ppid() for pid in pids}
        holding = [node for node in self._cluster.worker_nodes if _raylet(node) in parents]
        node = self._rng.choice(holding or list(self._cluster.worker_nodes))
        os.kill(_raylet(node), signal.SIGKILL)
        self._cluster.add_node(wait=False, num_cpus=2)
        with contextlib.suppress(AssertionError):  # of processes that take a moment to end
            self._cluster.remove_node(node, allow_graceful=False)


def started_head(node: dict[str, Any]) -> Any:
    """A cluster of a head with the options `node`; this process and its children may join it."""
    for name, value in _RAY.items():
        os.environ.setdefault(name, value)
    from ray._raylet import Config  # type: ignore[attr-defined]
    from ray.cluster_utils import Cluster

    Config.initialize("")  # they were read when Ray was imported
    return Cluster(initialize_head=True, head_node_args=node)


def _raylet(node: Any) -> int:
    [raylet] = node.all_processes["raylet"]
    return int(raylet.process.pid)
