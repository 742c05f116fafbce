"""How a learner is spread over ranks. Nothing here is part of what is learned, so that a run
continues on another number of ranks.
"""

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from r2v_dist.config.base import Section
from r2v_dist.config.places import UserPath

OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
    "checkpoint",
    "zero_optimization.stage",
    "zero_optimization.offload_optimizer",
    "zero_optimization.offload_param",
    "zero_optimization.zero_hpz_partition_size",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save",
)
"""DeepSpeed's settings that follow from keys of the configuration."""
_PASSED_ON = (
    "activation_checkpointing",
    "aio",
    "comms_logger",
    "communication_data_type",
    "compile",
    "data_types",
    "disable_allgather",
    "dump_state",
    "flops_profiler",
    "gradient_predivide_factor",
    "memory_breakdown",
    "prescale_gradients",
    "sparse_gradients",
    "steps_per_print",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
)
"""DeepSpeed's other settings; it ignores a name that it does not know."""

Offload = Literal["none", "cpu", "nvme"]


def _as_text(setting: Any) -> Any:
    """True and false are the older way to write `cpu` and `none`."""
    return {True: "cpu", False: "none"}[setting] if isinstance(setting, bool) else setting


class DeepSpeedConfig(Section):
    """How the learner is spread over ranks."""

    ranks: int = Field(1, ge=1, le=4096)
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: Annotated[Offload, BeforeValidator(_as_text)] = "none"
    """Where optimizer states are kept instead of on the GPU."""
    offload_parameters: Annotated[Offload, BeforeValidator(_as_text)] = "none"
    """Where parameters are kept while they are not used (ZeRO-3)."""
    nvme_path: UserPath | None = None
    """`nvme`: a directory on a local drive of every node."""
    zero_hpz_partition_size: int = Field(1, ge=1, le=4096)
    """ZeRO-3: ranks that hold a second copy of all parameters between them, for example the GPUs of
    a node, so that the backward pass gathers within the node (hpZ). 1: no second copy.
    """
    threads_per_rank: int = Field(2, ge=1, le=1024)
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Further settings of DeepSpeed, in its own words, for example
    {zero_optimization: {overlap_comm: true}}.
    """

    def as_before(self) -> dict[str, Any]:
        """The keys of the first versions, which were part of what names a stage."""
        return {
            "ranks": self.ranks,
            "zero_stage": self.zero_stage,
            "offload_optimizer": self.offload_optimizer != "none",
            "offload_parameters": self.offload_parameters != "none",
            "threads_per_rank": self.threads_per_rank,
        }

    @model_validator(mode="after")
    def _something_to_offload(self) -> Self:
        if self.offload_parameters != "none" and self.zero_stage != 3:
            raise ValueError(
                f"offload_parameters: takes zero_stage 3, not {self.zero_stage}; set zero_stage "
                f"or leave it out"
            )
        if self.offload_optimizer != "none" and self.zero_stage == 0:
            raise ValueError(
                "offload_optimizer: takes zero_stage 1, 2 or 3, not 0; set zero_stage or leave it "
                "out"
            )
        if "nvme" in (self.offload_optimizer, self.offload_parameters):
            if self.nvme_path is None:
                raise ValueError("offload to nvme needs nvme_path, a directory on a local drive")
            if self.zero_stage != 3:
                raise ValueError(
                    f"offload to nvme: takes zero_stage 3, not {self.zero_stage}; set zero_stage "
                    f"or offload to cpu"
                )
        return self

    @model_validator(mode="after")
    def _second_copy_divides(self) -> Self:
        size = self.zero_hpz_partition_size
        if size > 1 and (self.zero_stage != 3 or self.ranks % size):
            raise ValueError(
                f"zero_hpz_partition_size = {size}: takes zero_stage 3 and a number of ranks that "
                f"it divides, not stage {self.zero_stage} and {self.ranks} ranks"
            )
        return self

    @model_validator(mode="after")
    def _extra_is_not_ours(self) -> Self:
        zero = self.extra.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError("extra.zero_optimization: write a mapping")
        for name in (*self.extra, *(f"zero_optimization.{key}" for key in zero)):
            if name in OURS:
                raise ValueError(
                    f"extra.{name}: follows from other keys of the learner; leave it out"
                )
            if "." not in name and name not in _PASSED_ON:
                near = difflib.get_close_matches(name, _PASSED_ON, n=1, cutoff=0.0)[0]
                raise ValueError(f"extra.{name}: no such setting; did you mean {near}?")
        return self
