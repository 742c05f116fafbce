"""DeepSpeed's configuration, and the check that it is really what trains."""

from typing import Any

from r2v_dist.config.deepspeed import DeepSpeedConfig, Offload
from r2v_dist.errors import RuntimeFailure, UsageError


def deepspeed_arguments(config: DeepSpeedConfig, universal: bool = False) -> dict[str, Any]:
    """Trainer arguments that put DeepSpeed in charge. Call on every rank before the trainer's
    config is made. Raises UsageError for a setting in `config.extra` that DeepSpeed refuses.

    Args:
        universal: whether training goes on from a universal checkpoint.
    """
    import torch

    settings = deepspeed_settings(config, torch.cuda.is_available())
    _require_known(settings["zero_optimization"])
    if universal:
        settings["checkpoint"] = {"load_universal": True}
    arguments: dict[str, Any] = {"deepspeed": settings}
    if not torch.cuda.is_available():
        import deepspeed
        import deepspeed.ops
        from accelerate import DistributedType, PartialState

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
            False  # would compile at run time; gloo does the work
        )
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
        PartialState(cpu=True).distributed_type = DistributedType.DEEPSPEED
        arguments |= {
            "use_cpu": False,
            "accelerator_config": {"use_configured_state": True},
            "dataloader_pin_memory": False,
        }
    return arguments


def require_deepspeed(trainer: Any) -> None:
    """Raise RuntimeFailure unless DeepSpeed did the training."""
    engine = type(trainer.model_wrapped).__name__
    if engine != "DeepSpeedEngine":
        raise RuntimeFailure(f"trained with {engine} where DeepSpeedEngine was asked for")


def deepspeed_settings(config: DeepSpeedConfig, cuda: bool) -> dict[str, Any]:
    """DeepSpeed's own configuration. `auto` is filled in from the trainer's arguments."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimizer != "none":
        zero["offload_optimizer"] = _place(config, config.offload_optimizer)
    if config.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if config.offload_parameters != "none":
            zero["offload_param"] = _place(config, config.offload_parameters)
        if config.zero_hpz_partition_size > 1:
            zero["zero_hpz_partition_size"] = config.zero_hpz_partition_size
    extra: dict[str, Any] = dict(config.extra)
    zero |= extra.pop("zero_optimization", {})
    optimizer = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}
    # DeepSpeed's own is compiled at run time, which takes a compiler; only offloading from a GPU
    # cannot do without.
    of_torch = (
        {} if cuda and config.offload_optimizer != "none" else {"torch_adam": True, "fused": True}
    )
    return extra | {
        "zero_optimization": zero,
        "optimizer": {"type": "AdamW", "params": optimizer | of_torch},
        "bf16": {"enabled": "auto"},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }


def _place(config: DeepSpeedConfig, device: Offload) -> dict[str, Any]:
    path = {"nvme_path": str(config.nvme_path)} if device == "nvme" else {}
    return {"device": device, **path}


def _require_known(zero: dict[str, Any]) -> None:
    """Raises UsageError for a setting of ZeRO that DeepSpeed does not know or take."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    try:
        DeepSpeedZeroConfig(**zero)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"deepspeed.extra.zero_optimization.{name} = {first['input']}: {first['msg']}; correct "
            f"it, or leave it out"
        ) from None
