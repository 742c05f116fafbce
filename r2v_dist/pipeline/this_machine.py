"""What this machine has, and whether it has room for a run. Imports neither ray nor torch."""

import os
import shutil
from pathlib import Path

import psutil

from cluster import resources
from cluster.placement import Node, misfit
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.run import RunConfig
from r2v_dist.config.simulated import SimulatedConfig
from r2v_dist.pipeline.memory_plan import disk_gib

DISK_GIB = 2.0
"""Of a run, besides its checkpoints."""


def roles(config: RunConfig) -> list[tuple[str, ModelConfig]]:
    """Both models by their sections of the configuration."""
    return [("slm", config.slm), ("teacher", config.teacher)]


def problem_here(config: RunConfig) -> str | None:
    """What there is no room for on this machine."""
    gpus = on_gpus(config)
    cores = set(os.sched_getaffinity(0))
    for role, model in roles(config):
        if model.backend == "vllm" and not gpus and model.cpu_cores:
            missing_cores = sorted(_cores(model.cpu_cores) - cores)
            if missing_cores:
                return (
                    f"{role}.cpu_cores = {model.cpu_cores}: there is no core {missing_cores[0]} "
                    f"here; there are {len(cores)}, from {min(cores)}"
                )
    return resources.placement_problem(config, [this_machine(config.cluster)], gpus)


def on_gpus(config: RunConfig) -> bool:
    """Whether models run on GPUs if the run is on this machine."""
    return resources.on_gpus(config.cluster, [this_machine(config.cluster)])


def this_machine(cluster: ClusterConfig) -> Node:
    """As a node of a cluster."""
    return Node("this machine", cluster.num_cpus or os.cpu_count() or 1, local_gpus())


def _cores(text: str) -> set[int]:
    cores = set[int]()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def local_gpus() -> int:
    """GPUs of this machine that a process may use, without asking a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if visible is None:
        return count
    names = [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return min(count, len(names))


def needed_disk_gib(config: RunConfig) -> float:
    """What episodes and checkpoints of a run take."""
    return DISK_GIB + disk_gib(config)


def free_disk_gib(folder: Path) -> float:
    """What is free where a folder is, or would be made."""
    ancestor = next(
        parent
        for parent in (folder.absolute(), *folder.absolute().parents)
        if os.path.exists(parent)
    )
    return shutil.disk_usage(ancestor).free / 2**30


def no_room_here(config: SimulatedConfig) -> str | None:
    """What there is no room for on this machine. One rank needs none: it is the run's
    own process.
    """
    ranks = config.router.deepspeed.ranks
    if config.cluster.address or ranks == 1:
        return None
    bundle = resources.rank_bundle("router", ranks, gpus=False)
    problem = misfit([bundle], [this_machine(config.cluster)])
    return f"{problem}; {resources.fix(config.cluster, gpus=False)}" if problem else None


def available_gib() -> float:
    """Memory that is available."""
    return float(psutil.virtual_memory().available) / 2**30
