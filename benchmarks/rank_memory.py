"""The memory of a learner's rank by arithmetic, which `--dry-run` prints, against the resident
memory that a rank on CPUs really takes at its peak.

Invariant: both speak of the same model, batch and ranks. What a process holds before it loads the
model is counted on neither side.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import publish
from benchmarks.learner import play_expert
from benchmarks.rank_processes import run
from benchmarks.ranks import MODEL, config_of
from cluster.architectures import shape_of
from cluster.memory import Setup, of_rank
from learners.behaviour_cloning.train import BCJob, build_dataset
from r2v_dist.chat import ChatFormat
from r2v_dist.config.learners import BCConfig

ROWS = 4
SHAPE = {"hidden_size": 768, "num_hidden_layers": 8, "num_attention_heads": 12}
SHAPE |= {"num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 2048}
"""58 million parameters with the tiny model's tokens."""
CASES: tuple[tuple[str, int, int, dict[str, Any]], ...] = (
    ("ZeRO-0", 1, 0, {}),
    ("ZeRO-2", 1, 2, {}),
    ("ZeRO-2", 2, 2, {}),
    ("ZeRO-3", 2, 3, {}),
    ("ZeRO-3", 4, 3, {}),
    ("ZeRO-3, checkpointing", 2, 3, {"gradient_checkpointing": True}),
    ("ZeRO-3, LoRA 8", 2, 3, {"lora": {"r": 8, "alpha": 16, "dropout": 0.0}}),
)
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="", help="numbers of cases, from 0; all by default")
    args = parser.parse_args()
    wanted = [int(number) for number in args.cases.split(",") if number] or range(len(CASES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        play_expert(folder / "rollouts", 4)
        make_model(folder / "model")
        rows = [compare(folder, number) for number in wanted]
    table = [
        (f"{row['case']}, {row['ranks']} ranks", f"{row['predicted_mib']:.0f} MiB",
         f"{row['measured_mib']:.0f} MiB") for row in rows
    ]  # fmt: skip
    worst = min((row["ratio"] for row in rows), key=lambda ratio: min(ratio, 1 / ratio))
    publish("rank_memory", "peak resident memory of a rank", worst, table, rows=rows)


def make_model(folder: Path) -> None:
    """Random weights, with the tiny model's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(MODEL)
    config.update(SHAPE | {"layer_types": ["full_attention"] * SHAPE["num_hidden_layers"]})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)


def compare(folder: Path, number: int) -> dict[str, Any]:
    """One case: bytes by arithmetic and bytes of the rank that took most."""
    case, ranks, zero_stage, how = CASES[number]
    sizes: dict[str, Any] = {
        "batch_size": ROWS * ranks,
        "micro_batch_size": ROWS,
        "max_length": 512,
    }
    config = config_of(ranks, zero_stage, epochs=1.0, **(sizes | how))
    place = folder / str(number)
    job = BCJob(
        rollouts=folder / "rollouts",
        model=str(folder / "model"),
        system_prompt="",
        output=place / "model",
        stage=place,
        seed=0,
        config=config,
    )
    run(ranks, partial(train_and_measure, job, place), place / "logs")
    measured = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("rank*.json"))
    ]
    peak = max(rank["peak"] - rank["before"] for rank in measured)
    predicted = predict(job, config, max(rank["tokens"] for rank in measured))
    row = {"case": case, "ranks": ranks, "predicted_mib": predicted / MIB}
    row |= {"measured_mib": peak / MIB, "ratio": predicted / peak}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def predict(job: BCJob, config: BCConfig, tokens: int) -> int:
    """What a rank holds by arithmetic, for micro batches of at most so many tokens a row."""
    shape = shape_of(job.model)
    assert shape is not None
    deepspeed = config.deepspeed
    setup = Setup(shape, ROWS, tokens, ROWS * tokens, 4, deepspeed.ranks, deepspeed.zero_stage)
    lora = config.lora.r if config.lora else None
    more = {"lora": lora, "checkpointing": config.gradient_checkpointing}
    memory = of_rank(Setup(**vars(setup) | more))
    return memory.total


def train_and_measure(job: BCJob, place: Path) -> None:
    """What a rank runs: training, with its memory before the model is loaded and at its peak."""
    import os

    from transformers import AutoTokenizer

    from learners.behaviour_cloning import train as learner

    chat = ChatFormat(AutoTokenizer.from_pretrained(job.model), "slm")
    dataset = build_dataset(job.rollouts, chat, job.config.max_length)
    tokens = max(map(len, dataset["input_ids"]))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    before = resident("VmRSS")
    module: Any = learner
    train = module.train

    def train_and_note(trainer: Any, stage: Path) -> None:
        train(trainer, stage)
        facts = {"before": before, "peak": resident("VmHWM"), "tokens": tokens}
        (place / f"rank{os.environ['RANK']}.json").write_text(json.dumps(facts), encoding="utf-8")

    module.train = train_and_note
    learner.train_rank(job)


def resident(name: str) -> int:
    """A size of this process that the kernel keeps, in bytes."""
    lines: Sequence[str] = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
