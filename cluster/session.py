"""A Ray session that always ends: started here or joined, and shut down when the run is over, however it ends."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from r2v_dist.config import ClusterConfig
from r2v_dist.errors import RuntimeFailure

DRIVER_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextlib.contextmanager
def ray_session(config: ClusterConfig, logs: Path) -> Iterator[None]:
    """Join the cluster at `config.address`, or start Ray on this machine (loopback only).

    Raises RuntimeFailure when the cluster cannot be reached.
    """
    for name, value in DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if config.address:
            ray.init(address=config.address, **options)
        else:
            ray.init(num_cpus=config.num_cpus, include_dashboard=False, **options)
    except Exception as error:  # a boundary: a node that starts too slowly is a bare Exception of Ray's
        raise RuntimeFailure(
            f"cluster.address = {config.address or 'local'}: Ray cannot be reached: {' '.join(str(error).split())[:300]}"
        ) from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own handler aborts the process with a stack trace
    try:
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "ray_session.txt").write_text(f"{ray.get_runtime_context().gcs_address}\n", encoding="utf-8")
        yield
    finally:
        ray.shutdown()
