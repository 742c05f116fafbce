"""The environment variables of every kind of process of a run. Libraries read them when they are
imported, so each is set before its process begins.
"""

import secrets

from r2v_dist.config.cluster import ClusterConfig

_NO_TOKENIZER_THREADS = {"TOKENIZERS_PARALLELISM": "false"}
_NO_DOWNLOAD_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}

_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
"""Ray hides no GPU from a process that requested none."""

_DRIVER = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
    **_NO_TOKENIZER_THREADS,
}
_ROOM_S = 60.0
"""Engines that make room for ranks need some seconds to end."""
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Whether the ranks of a learner are told of nodes that are to go; Ray hands it on to them."""
_ALONE = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    PREEMPTION_WATCHER: "0",
}
"""Of Ray on this machine. It listens on every interface and would run whatever it is sent, so it
asks for a token that this process and its children alone have. Nobody announces to take its one
node away. A cluster that is joined decides itself.
"""

RUNNER = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **_NO_TOKENIZER_THREADS}
"""Of an env runner."""

_ENGINE = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CONFIGURE_LOGGING": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    **_NO_TOKENIZER_THREADS,
    **_NO_DOWNLOAD_BARS,
}
ENGINE_WITHOUT_GPU = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
"""What an engine has besides where it gets no GPU: compiling takes longer than it saves there. On a
GPU vLLM does not start without the compiler.
"""


def of_driver(cluster: ClusterConfig) -> dict[str, str]:
    """Of the process that starts Ray or joins it."""
    wait_s = max(_ROOM_S, cluster.wait_for_resources_s)
    wait = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{wait_s}"}
    return {**_DRIVER, **wait, **({} if cluster.address else _ALONE)}


def of_engine(on_gpu: bool) -> dict[str, str]:
    """Of a vLLM engine."""
    return {**_ENGINE, **({} if on_gpu else ENGINE_WITHOUT_GPU | _NO_GPU)}


def of_scorer(threads: int, on_gpu: bool) -> dict[str, str]:
    """Of the trained verifier, and of what scores rows with a model."""
    return {
        "OMP_NUM_THREADS": str(threads),
        **_NO_TOKENIZER_THREADS,
        **_NO_DOWNLOAD_BARS,
        **({} if on_gpu else _NO_GPU),
    }


def of_rank(threads: int, on_gpu: bool) -> dict[str, str]:
    """Of a learner's rank."""
    return {
        "OMP_NUM_THREADS": str(threads),
        # In bfloat16, cuDNN's attention builds a plan for every new shape of a batch: most of a
        # step, where lengths vary.
        "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
        **_NO_TOKENIZER_THREADS,
        **_NO_DOWNLOAD_BARS,
        **({} if on_gpu else {"DS_ACCELERATOR": "cpu"} | _NO_GPU),
    }
