"""The hours that `--dry-run` tells of training on CPUs."""

import pytest

from r2v_dist.config.learners import BCConfig
from r2v_dist.config.run import load_config
from r2v_dist.pipeline.time_plan import time_plan, tokens_per_second
from tests.runs import ROOT


def test_what_is_trained_and_how_decides_the_rate() -> None:
    full = tokens_per_second(100_000_000, BCConfig(bf16=True))
    assert full == pytest.approx(tokens_per_second(200_000_000, BCConfig(bf16=True)) * 2)
    assert full > tokens_per_second(100_000_000, BCConfig())
    again = BCConfig(bf16=True, gradient_checkpointing=True)
    assert tokens_per_second(100_000_000, again) == pytest.approx(0.75 * full)
    two_ranks = BCConfig.model_validate({"bf16": True, "deepspeed": {"ranks": 2}, "batch_size": 32})
    assert tokens_per_second(100_000_000, two_ranks) == pytest.approx(2 * full)


def test_every_learner_of_a_run_is_told() -> None:
    told = time_plan(load_config(ROOT / "configs" / "textworld_demo.yaml", [])).splitlines()
    assert [line.partition(":")[0] for line in told[1:]] == ["# bc", "# verifier", "# dpo"]
    assert "1000 episodes x 1 epochs" in told[1]
    nothing_trained = load_config(ROOT / "configs" / "humaneval_qwen_cpu.yaml", [])
    assert time_plan(nothing_trained) == ""
