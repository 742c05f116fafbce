"""A learner that is asked for an option really trains with it: a tiny run each, without Ray."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ranks as benchmark
from benchmarks.learner import play_expert
from benchmarks.rank_processes import run
from learners.behaviour_cloning.train import BCJob

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    play_expert(folder, 4)
    return folder


@pytest.fixture(scope="module")
def plain(rollouts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Training without any option, ZeRO-2 and float32."""
    return observed(rollouts, tmp_path_factory.mktemp("plain"))


def observed(
    rollouts: Path, place: Path, ranks: int = 1, zero_stage: int = 2, **options: Any
) -> dict[str, Any]:
    """The losses, and what was seen on the first rank while it trained."""
    config = benchmark.config_of(ranks, zero_stage, epochs=2.5, **options)
    job = BCJob(
        rollouts=rollouts,
        model=str(benchmark.MODEL),
        system_prompt="",
        output=place / "model",
        stage=place,
        seed=0,
        config=config,
    )
    run(ranks, partial(train_and_look, job, place / "facts.json"), place / "logs")
    facts: dict[str, Any] = json.loads((place / "facts.json").read_text())
    rows = (place / "metrics.jsonl").read_text().splitlines()
    return facts | {"losses": [json.loads(row)["loss"] for row in rows]}


def train_and_look(job: BCJob, facts: Path) -> None:
    """What a rank runs: training, with an eye on what it calls."""
    import torch.nn.functional
    from transformers.models.qwen3 import modeling_qwen3

    from learners.behaviour_cloning import train as learner

    calls: dict[str, int] = {"sdpa": 0, "eager": 0}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            calls[name] += 1
            return function(*values, **named)

        return call

    functional: Any = torch.nn.functional
    functional.scaled_dot_product_attention = counted(
        "sdpa", functional.scaled_dot_product_attention
    )
    modeling: Any = modeling_qwen3
    modeling.eager_attention_forward = counted("eager", modeling.eager_attention_forward)
    train = learner.train

    def train_and_note(trainer: Any, stage: Path) -> None:
        train(trainer, stage)
        engine = trainer.model_wrapped
        optimizer = engine.optimizer
        seen = {
            **calls,
            "attention": trainer.model.config._attn_implementation,
            "bf16": engine.bfloat16_enabled(),
            "dtypes": sorted({str(value.dtype) for value in engine.module.parameters()}),
            "stage": engine.zero_optimization_stage(),
            "optimizer_offloaded": bool(
                getattr(optimizer, "offload_optimizer", getattr(optimizer, "cpu_offload", False))
            ),
            "parameters_offloaded": bool(getattr(optimizer, "offload_param", False)),
            "divided": all(hasattr(value, "ds_id") for value in engine.module.parameters()),
        }
        if torch.distributed.get_rank() == 0:
            facts.write_text(json.dumps(seen))

    module: Any = learner
    module.train = train_and_note
    learner.train_rank(job)


def test_attention_is_the_one_that_is_named(rollouts: Path, plain: Any, tmp_path: Path) -> None:
    assert (plain["attention"], plain["eager"]) == ("sdpa", 0)
    assert plain["sdpa"] > 0
    eager = observed(rollouts, tmp_path, attention="eager")
    assert (eager["attention"], eager["sdpa"]) == ("eager", 0)
    assert eager["eager"] == plain["sdpa"]
    assert eager["losses"] == pytest.approx(plain["losses"], rel=1e-4)


def test_checkpointing_computes_layers_again(rollouts: Path, plain: Any, tmp_path: Path) -> None:
    again = observed(rollouts, tmp_path, gradient_checkpointing=True)
    assert again["sdpa"] == 2 * plain["sdpa"]
    assert again["losses"] == pytest.approx(plain["losses"], rel=1e-5)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_bfloat16_is_what_is_multiplied(
    zero_stage: int, rollouts: Path, plain: Any, tmp_path: Path
) -> None:
    assert (plain["bf16"], plain["dtypes"]) == (False, ["torch.float32"])
    half = observed(rollouts, tmp_path, zero_stage=zero_stage, bf16=True)
    assert (half["bf16"], half["dtypes"]) == (True, ["torch.bfloat16"])
    assert half["losses"] == pytest.approx(plain["losses"], rel=0.05)


@pytest.mark.parametrize(("zero_stage", "parameters"), [(2, "none"), (3, "none"), (3, "cpu")])
def test_what_is_offloaded_lies_elsewhere_and_learns_the_same(
    zero_stage: int, parameters: str, rollouts: Path, plain: Any, tmp_path: Path
) -> None:
    assert not plain["optimizer_offloaded"]
    where = {"offload_optimizer": "cpu", "offload_parameters": parameters}
    away = observed(rollouts, tmp_path, zero_stage=zero_stage, deepspeed=where)
    assert away["optimizer_offloaded"]
    assert away["parameters_offloaded"] == (parameters == "cpu")
    assert away["divided"] == (zero_stage == 3)
    assert away["losses"] == pytest.approx(plain["losses"], rel=1e-5)
