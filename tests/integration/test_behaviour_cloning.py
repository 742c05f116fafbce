"""Behaviour cloning for real: Ray Train, TRL, DeepSpeed ZeRO, on episodes the expert
really played.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.collector import Collector, StageFolder
from actors.env_runner import EnvRunner, RunnerSetup
from learners.behaviour_cloning.train import BCJob, build_dataset, clone_behaviour
from learners.common.adapters import whole
from learners.common.sequences import IGNORED
from r2v_dist.chat import ChatFormat
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.learners import BCConfig, LoraConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.storage.checkpoints import published

SETUP = RunnerSetup(
    ModelConfig(backend="simulated"),
    ModelConfig(backend="expert"),
    "",
    "",
    PerturbConfig(),
    unit_timeout_s=60,
)
ARM = Arm("teacher_only", None, "none", "expert", 0)


@pytest.fixture(scope="module")
def rollouts(tasks: list[Task], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Expert episodes, played by the runner in this process and committed by the real collector."""
    folder = tmp_path_factory.mktemp("collect")
    collector = Collector(StageFolder(folder, 64, 1e9))

    async def deliver(episodes: Any) -> None:
        collector.add(episodes)

    async def play() -> None:
        runner = EnvRunner(SETUP, None, None)
        for task in tasks:
            for z in (None, 0, 1, 2):
                await runner.run(Unit("collect", "h", task, z, 0, (ARM,)), deliver)

    asyncio.run(play())
    collector.flush()
    return folder


def train(
    rollouts: Path,
    tiny_model: Path,
    folder: Path,
    micro_batch_size: int = 4,
    report_to: tuple[str, ...] = (),
    **changes: Any,
) -> list[float]:
    shape = {"batch_size": 8, "micro_batch_size": micro_batch_size, "max_length": 512}
    config = BCConfig(learning_rate=1e-3, epochs=3, save_every_steps=2, **shape, **changes)
    job = BCJob(
        rollouts=rollouts,
        model=str(tiny_model),
        system_prompt="",
        output=folder / "model",
        stage=folder / "stage",
        seed=0,
        config=config,
        report_to=report_to,
    )
    clone_behaviour(job)
    return [
        json.loads(line)["loss"]
        for line in (folder / "stage" / "metrics.jsonl").read_text().splitlines()
    ]


def reported(folder: Path, tag: str) -> list[float]:
    """What a folder of TensorBoard's has under a tag, in the form of its event files."""
    from tensorboardX.proto.event_pb2 import Event

    values = []
    [path] = folder.iterdir()  # the first rank alone reports
    data = path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        values += [value.simple_value for value in event.summary.value if value.tag == tag]
        data = data[16 + length :]
    return values


def completion_loss(model_path: Path, dataset: Any) -> float:
    """Mean negative log-likelihood an action token, computed plainly."""
    model, total, count = (
        AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32),
        0.0,
        0,
    )
    for row in dataset:
        labels = torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((labels != IGNORED).sum())
    return total / count


def test_the_loss_is_on_the_teachers_actions_only(rollouts: Path, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    dataset = build_dataset(rollouts, ChatFormat(tokenizer, "slm"), 512)
    assert len(dataset) == 16
    for row in dataset:
        trained = [i for i in row["labels"] if i != IGNORED]
        commands = tokenizer.decode(trained).split("<|end|>")
        assert commands[-1] == ""
        assert all(
            command.split()[0]
            in {"go", "take", "open", "unlock", "close", "lock", "put", "insert", "drop", "eat"}
            for command in commands[:-1]
        )


def test_two_ranks_of_zero3_learn_and_publish_a_plain_checkpoint(
    ray_session: None, rollouts: Path, tiny_model: Path, tmp_path: Path
) -> None:
    dataset = build_dataset(
        rollouts, ChatFormat(AutoTokenizer.from_pretrained(tiny_model), "slm"), 512
    )
    before = completion_loss(tiny_model, dataset)
    losses = train(
        rollouts,
        tiny_model,
        tmp_path,
        deepspeed=DeepSpeedConfig(ranks=2, zero_stage=3, threads_per_rank=1),
        report_to=("tensorboard",),
    )
    assert completion_loss(tmp_path / "model", dataset) < 0.8 * before
    assert reported(tmp_path / "stage" / "tensorboard", "train/loss") == pytest.approx(losses)
    assert {p.suffix for p in (tmp_path / "model").iterdir()} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.slow
def test_without_padding_the_losses_are_the_same(
    ray_session: None, rollouts: Path, tiny_model: Path, tmp_path: Path
) -> None:
    plain, unpadded = (
        train(
            rollouts,
            tiny_model,
            tmp_path / name,
            padding_free=free,
            deepspeed=DeepSpeedConfig(threads_per_rank=1),
        )
        for name, free in (("plain", False), ("unpadded", True))
    )
    assert unpadded == pytest.approx(plain, rel=1e-4)


@pytest.mark.slow
def test_how_a_steps_episodes_are_divided_does_not_change_its_loss(
    ray_session: None, rollouts: Path, tiny_model: Path, tmp_path: Path
) -> None:
    whole, divided, ranks = (
        train(
            rollouts,
            tiny_model,
            tmp_path / str(n),
            n,
            deepspeed=DeepSpeedConfig(ranks=r, threads_per_rank=1),
        )
        for n, r in ((8, 1), (2, 1), (4, 2))
    )
    assert divided == pytest.approx(whole, rel=1e-4)
    assert ranks == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_an_adapter_is_published_alone_and_merged_for_those_who_want_whole_weights(
    zero_stage: int, ray_session: None, rollouts: Path, tiny_model: Path, tmp_path: Path
) -> None:
    dataset = build_dataset(
        rollouts, ChatFormat(AutoTokenizer.from_pretrained(tiny_model), "slm"), 512
    )
    train(
        rollouts,
        tiny_model,
        tmp_path,
        lora=LoraConfig(r=8, alpha=16, dropout=0.0),
        deepspeed=DeepSpeedConfig.model_validate(
            {"zero_stage": zero_stage, "ranks": 2, "threads_per_rank": 1}
        ),
    )
    adapter = published(tmp_path / "model", "bc")
    assert adapter.path == str(tiny_model.resolve())
    size = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    assert size < 0.2 * (tiny_model / "model.safetensors").stat().st_size
    loss = completion_loss(tmp_path / "model", dataset)
    assert loss < 0.97 * completion_loss(tiny_model, dataset)
    merged = whole(adapter, "float32")
    assert completion_loss(Path(merged), dataset) == pytest.approx(loss, rel=1e-5)
