"""The optional packages that a run takes, looked for before anything is started and without being
imported.
"""

import importlib.util

from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.errors import UsageError

_TRACKERS = {
    "tensorboard": ("tensorboard", ("tensorboard", "tensorboardX")),
    "wandb": ("wandb", ("wandb",)),
    "mlflow": ("mlflow", ("mlflow",)),
}
"""The package of a tracker, and the modules of which one will do."""
_VLLM_METRICS = ("grpcio-reflection", ("grpc_reflection",))
"""Of ray.serve, which vLLM's metrics for Ray import."""


def check_packages(cluster: ClusterConfig) -> None:
    """Raises UsageError where one is missing on this machine. Nodes of a joined cluster have the
    same packages.
    """
    requirements = {
        f"cluster.report_to = {tracker}": _TRACKERS[tracker] for tracker in cluster.report_to
    }
    if cluster.metrics.enabled and cluster.metrics.vllm:
        requirements["cluster.metrics.vllm = true"] = _VLLM_METRICS
    for key, (package, modules) in requirements.items():
        if not any(importlib.util.find_spec(module) for module in modules):
            raise UsageError(
                f"{key}: the package {package} is not installed; `pip install {package}`, or leave "
                f"this out"
            )
