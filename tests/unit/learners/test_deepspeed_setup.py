"""DeepSpeed's own configuration says what the configuration of a learner says."""

import pytest

from learners.common.deepspeed_setup import deepspeed_arguments, deepspeed_settings
from r2v_dist.config.deepspeed import DeepSpeedConfig
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
