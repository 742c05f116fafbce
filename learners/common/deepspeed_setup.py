"""DeepSpeed's configuration, and the check that it is really what trains."""

from typing import Any

from r2v_dist.config.learners import DeepSpeedConfig
from r2v_dist.errors import RuntimeFailure


def deepspeed_arguments(config: DeepSpeedConfig) -> dict[str, Any]:
    """Trainer arguments that put DeepSpeed in charge. Call on every rank before the trainer's
    config is made.
    """
    import torch

    arguments: dict[str, Any] = {"deepspeed": _deepspeed_config(config, torch.cuda.is_available())}
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


def _deepspeed_config(config: DeepSpeedConfig, cuda: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if config.offload_parameters:
            zero["offload_param"] = {"device": "cpu"}
    optimizer = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}
    # DeepSpeed's own is compiled at run time, which takes a compiler; only offloading from a GPU
    # cannot do without.
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
