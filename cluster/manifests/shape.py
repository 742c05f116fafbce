"""How many nodes a run takes, as its configuration says. Pure: no cluster is asked."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.resources import ranks_of
from r2v_dist.config.run import RunConfig
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.errors import UsageError

_RUNNER_GIB = 1.0
"""A runner with its games; most of it is shared between the runners of a node."""


@dataclass(frozen=True)
class Node:
    """What a node of the cluster has."""

    cpus: int = 16
    gpus: int = 8
    memory_gib: int = 64


@dataclass(frozen=True)
class Shape:
    """Nodes with GPUs and nodes without, beside the head, which no runner or engine uses.

    `gpus` are those of a node with GPUs.
    """

    gpu_nodes: int
    gpus: int
    cpu_nodes: int
    memory_gib: int
    """Of a node without GPUs."""


def shape_of(config: RunConfig | SimulatedConfig, node: Node) -> Shape:
    """The nodes that engines, runners and the largest learner find room on.

    A learner takes turns with engines, so the larger of both counts. Raises UsageError for what no
    node has, however many there are.
    """
    gpus_asked = gpus_of(config) if node.gpus else 0
    if node.gpus and (largest := _largest(config)) > node.gpus:
        raise UsageError(
            f"{largest} GPUs on one node are asked by tensor_parallel: --gpus-per-node = "
            f"{node.gpus} has too few; raise it, or lower the key"
        )
    gpus = min(node.gpus, gpus_asked)
    cores = _cores(config, on_gpus=gpus_asked > 0)
    runners = 0 if isinstance(config, SimulatedConfig) else config.cluster.runners
    cpu_nodes = math.ceil(cores / node.cpus)
    runner_gib = math.ceil(_RUNNER_GIB * runners / max(cpu_nodes, 1))
    return Shape(
        gpu_nodes=math.ceil(gpus_asked / gpus) if gpus else 0,
        gpus=gpus,
        cpu_nodes=cpu_nodes,
        memory_gib=math.ceil(config.cluster.memory_gib) + runner_gib,
    )


def gpus_of(config: RunConfig | SimulatedConfig) -> int:
    """Whole GPUs that the engines and the verifiers, or the largest learner, take."""
    if isinstance(config, SimulatedConfig) or not config.gpus:
        return 0
    shares = [share for key, share in config.gpus.items() for _ in range(config.replicas[key])]
    return max([packed(shares), *ranks_of(config).values()])


def packed(shares: Iterable[float]) -> int:
    """GPUs that hold the shares, largest first, each on the first with room. A share above 1 is a
    number of whole GPUs.
    """
    whole_gpus = 0
    rooms: list[float] = []
    for share in sorted(shares, reverse=True):
        if share >= 1:
            whole_gpus += math.ceil(share)
            continue
        place = next((i for i, room in enumerate(rooms) if room >= share - 1e-9), None)
        if place is None:
            rooms.append(1 - share)
        else:
            rooms[place] -= share
    return whole_gpus + len(rooms)


def _largest(config: RunConfig | SimulatedConfig) -> int:
    """Most GPUs that ranks of one engine take on one node; those of a pipeline may be elsewhere."""
    if isinstance(config, SimulatedConfig):
        return 0
    engines = [model for model in (config.slm, config.teacher) if model.backend == "vllm"]
    return max((model.tensor_parallel for model in engines), default=0)


def _cores(config: RunConfig | SimulatedConfig, on_gpus: bool) -> int:
    """Cores of nodes without GPUs: a runner's each, and a rank's each where ranks have no GPU."""
    if isinstance(config, SimulatedConfig):
        return config.router.deepspeed.ranks
    ranks = 0 if on_gpus else max(ranks_of(config).values(), default=0)
    return max(config.cluster.runners, ranks)
