"""DeepSpeed's own configuration says what the configuration of a learner says."""

from pathlib import Path

import pytest
import torch

from learners.common.deepspeed_setup import deepspeed_arguments, deepspeed_settings
from learners.common.hf_trainer import trainer_arguments
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.learners import BCConfig
from r2v_dist.errors import UsageError


def test_offloading_and_a_second_copy_are_said_to_zero() -> None:
    config = DeepSpeedConfig.model_validate(
        {
            "ranks": 8,
            "zero_stage": 3,
            "offload_optimizer": "nvme",
            "offload_parameters": True,
            "nvme_path": "/nvme",
            "zero_hpz_partition_size": 4,
        }
    )
    assert deepspeed_settings(config, cuda=True)["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": {"device": "nvme", "nvme_path": "/nvme"},
        "offload_param": {"device": "cpu"},
        "zero_hpz_partition_size": 4,
        "stage3_gather_16bit_weights_on_model_save": True,
    }


def test_further_settings_are_passed_on_beside_ours() -> None:
    extra = {"zero_optimization": {"overlap_comm": True}, "wall_clock_breakdown": True}
    settings = deepspeed_settings(DeepSpeedConfig.model_validate({"extra": extra}), cuda=False)
    assert settings["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert settings["wall_clock_breakdown"] is True
    assert settings["optimizer"]["params"]["torch_adam"] is True


@pytest.mark.parametrize(
    ("zero", "part"),
    [
        ({"overlap_com": True}, "overlap_com = True"),
        ({"reduce_bucket_size": -1}, "reduce_bucket_size = -1"),
    ],
)
def test_a_setting_that_deepspeed_refuses_is_one_line(zero: dict[str, object], part: str) -> None:
    config = DeepSpeedConfig.model_validate({"extra": {"zero_optimization": zero}})
    with pytest.raises(
        UsageError, match=rf"^deepspeed\.extra\.zero_optimization\.{part}"
    ) as raised:
        deepspeed_arguments(config)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bfloat16_without_a_gpu_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^bc\.bf16 = true: is trained on GPUs only; set false$"):
        trainer_arguments("bc", BCConfig(bf16=True), tmp_path, 0)
