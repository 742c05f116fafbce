"""Starts the ranks of a learner with Ray Train and hands DeepSpeed to TRL, on CUDA and on CPU machines alike.

On a CPU machine accelerate would silently fall back to plain data parallelism; `deepspeed_arguments` prevents it, and
every learner checks with `require_deepspeed` that the engine it trained with was DeepSpeed's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from r2v_dist.errors import RuntimeFailure
from r2v_dist.files import append_json_line
from r2v_dist.learner_config import DeepSpeedConfig


def run_ranks(
    loop: Callable[[dict[str, Any]], None], arguments: dict[str, Any], deepspeed: DeepSpeedConfig, name: str, storage: Path
) -> None:
    """Run `loop(arguments)` on every rank; a rank that dies is started again from its last checkpoint.

    Raises RuntimeFailure with the first cause when that does not help.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    use_gpu = ray.cluster_resources().get("GPU", 0) >= deepspeed.ranks
    environment = {
        "OMP_NUM_THREADS": str(deepspeed.threads_per_rank),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # In bfloat16, cuDNN's attention builds a plan for every new shape of a batch: most of a step, where lengths vary.
        "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
        **({} if use_gpu else {"DS_ACCELERATOR": "cpu"}),
    }
    trainer = TorchTrainer(
        loop,
        train_loop_config=arguments,
        scaling_config=ScalingConfig(
            num_workers=deepspeed.ranks, use_gpu=use_gpu, resources_per_worker={"CPU": 1, **({"GPU": 1} if use_gpu else {})}
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage.resolve()),
            failure_config=FailureConfig(max_failures=2),
            worker_runtime_env={"env_vars": environment},
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # a boundary: whatever ended the ranks, the user gets its first cause
        raise RuntimeFailure(f"learner {name}: {_innermost(error)}") from None


def _innermost(error: BaseException) -> str:
    failures = getattr(error, "worker_failures", None)
    if failures:
        return _innermost(next(iter(failures.values())))
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"[:500]


def deepspeed_arguments(config: DeepSpeedConfig) -> dict[str, Any]:
    """Trainer arguments that put DeepSpeed in charge. Call on every rank before the trainer's config is made."""
    import torch

    arguments: dict[str, Any] = {"deepspeed": _deepspeed_config(config, torch.cuda.is_available())}
    if not torch.cuda.is_available():
        import deepspeed
        import deepspeed.ops
        from accelerate import DistributedType, PartialState

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would compile at run time; gloo does the work
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
        PartialState(cpu=True).distributed_type = DistributedType.DEEPSPEED
        arguments |= {"use_cpu": False, "accelerator_config": {"use_configured_state": True}, "dataloader_pin_memory": False}
    return arguments


def require_deepspeed(trainer: Any) -> None:
    """Raise RuntimeFailure unless DeepSpeed did the training."""
    engine = type(trainer.model_wrapped).__name__
    if engine != "DeepSpeedEngine":
        raise RuntimeFailure(f"trained with {engine} where DeepSpeedEngine was asked for")


def _deepspeed_config(config: DeepSpeedConfig, cuda: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if config.offload_parameters:
            zero["offload_param"] = {"device": "cpu"}
    optimizer = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}
    # DeepSpeed's own is compiled at run time, which takes a compiler; only offloading from a GPU cannot do without.
    of_torch = {} if cuda and config.offload_optimizer else {"torch_adam": True, "fused": True}
    return {
        "zero_optimization": zero,
        "optimizer": {"type": "AdamW", "params": optimizer | of_torch},
        "bf16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a stage's metrics."""
    append_json_line(path, row)
