"""Where Prometheus finds the metrics of Ray that a run has started on this machine.

Ray's dashboard writes such a file for the nodes of a cluster; Ray that a run starts has no
dashboard. The file is there while the run's Ray is.
"""

import json
from pathlib import Path

from r2v_dist import files
from r2v_dist.config.cluster import ClusterConfig

_NAME = "prometheus_targets.json"


def write_targets(config: ClusterConfig, logs: Path) -> None:
    """Write the file, in the form of Prometheus' `file_sd_configs`. Ray has started."""
    import ray

    if config.address or not config.metrics.enabled:
        return
    nodes = [node for node in ray.nodes() if node["Alive"]]
    targets = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes]
    content = [{"labels": {"job": "ray"}, "targets": targets}]
    files.write_atomically(logs / _NAME, json.dumps(content))


def forget_targets(logs: Path) -> None:
    """Remove the file."""
    (logs / _NAME).unlink(missing_ok=True)
