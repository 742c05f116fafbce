"""Behaviour cloning on other numbers of ranks, on numbers that change, and with ranks that are
killed, against training that nothing disturbs: losses and published weights agree within 1e-5.

Invariant: every side learns from the same episodes with the real learner; only who computes it, and
how often it has to begin again, differs.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import publish
from benchmarks.learner import play_expert
from benchmarks.rank_processes import run
from learners.behaviour_cloning.train import BCJob, train_rank
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.learners import BCConfig, LoraConfig
from r2v_dist.files import read_json_lines

MODEL = Path(__file__).parents[1] / "models" / "textworld-tiny"
GOAL = 1e-5
STEPS = 20
EVERY = 5
"""Steps between two checkpoints, and between two logged losses."""
BATCH = 8
Kind = Literal["full", "lora"]


@dataclass(frozen=True)
class Attempt:
    """Ranks that train to the end, or are killed once the checkpoint of a step is complete."""

    ranks: int
    killed_at: int | None = None


SCENARIOS: dict[str, tuple[Attempt, ...]] = {
    "2 ranks": (Attempt(2),),
    "4 ranks": (Attempt(4),),
    "4, then 2, then 4": (Attempt(4, EVERY), Attempt(2, 2 * EVERY), Attempt(4)),
    "2, a rank killed twice": (Attempt(2, EVERY), Attempt(2, 3 * EVERY), Attempt(2)),
}
"""Each is compared with one rank that nothing disturbs."""


@dataclass(frozen=True)
class Learned:
    """What an undisturbed or a disturbed training came to."""

    losses: dict[int, float]
    """By step; each is a mean over the steps since the one before."""
    weights: dict[str, Any]
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", default="1,2,3", help="stages of ZeRO")
    parser.add_argument("--kinds", default="full,lora", help="what is trained")
    parser.add_argument("--scenarios", default=";".join(SCENARIOS), help="separated by semicolons")
    parser.add_argument("--games", type=int, default=16)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        play_expert(folder / "rollouts", args.games)
        rows = []
        for stage in args.stages.split(","):
            for kind in args.kinds.split(","):
                rows += list(compare(folder, int(stage), kind, args.scenarios.split(";")))
    worst = max(max(row["loss_difference"], row["weight_difference"]) for row in rows)
    table = [
        (
            f"ZeRO-{row['zero_stage']}, {row['kind']}: {row['scenario']}",
            f"loss {row['loss_difference']:.1e}, weight {row['weight_difference']:.1e}",
            f"{row['seconds']:.0f} s",
        )
        for row in rows
    ]
    publish(
        "ranks",
        "one rank that nothing disturbs",
        GOAL / max(worst, 1e-12),
        table,
        worst_difference=worst,
        rows=rows,
    )


def compare(
    folder: Path, zero_stage: int, kind: Kind, scenarios: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One row a scenario: the largest differences of a loss, relative, and of a weight."""
    settings = partial(config_of, zero_stage=zero_stage, lora=kind == "lora")
    place = folder / f"zero{zero_stage}-{kind}"
    alone = learn(folder / "rollouts", place / "alone", (Attempt(1),), settings)
    for number, scenario in enumerate(scenarios):
        attempts = SCENARIOS[scenario]
        learned = learn(folder / "rollouts", place / str(number), attempts, settings)
        loss, weight = differences(learned, alone)
        row: dict[str, Any] = {"zero_stage": zero_stage, "kind": kind, "scenario": scenario}
        row |= {"loss_difference": loss, "weight_difference": weight, "seconds": learned.seconds}
        print(json.dumps(row), file=sys.stderr, flush=True)
        yield row


def differences(learned: Learned, reference: Learned) -> tuple[float, float]:
    """Of losses, relative, and of weights. Raises ValueError where steps or tensors are not the
    same.
    """
    if learned.losses.keys() != reference.losses.keys():
        raise ValueError(f"steps {sorted(learned.losses)}, not {sorted(reference.losses)}")
    if learned.weights.keys() != reference.weights.keys():
        raise ValueError("published tensors have other names")
    loss = max(abs(learned.losses[step] / loss - 1) for step, loss in reference.losses.items())
    weight = max(
        float((learned.weights[name] - tensor).abs().max())
        for name, tensor in reference.weights.items()
    )
    return loss, weight


def config_of(ranks: int, zero_stage: int, lora: bool = False, **more: Any) -> BCConfig:
    """A learner that saves and logs every five steps; `more` are further keys."""
    deepspeed = {"zero_stage": zero_stage, "ranks": ranks, "threads_per_rank": 1}
    return BCConfig.model_validate(
        {
            "learning_rate": 1e-3,
            "batch_size": BATCH,
            "micro_batch_size": 2,
            "max_length": 512,
            "save_every_steps": EVERY,
            "lora": LoraConfig(r=8, alpha=16, dropout=0.0) if lora else None,
            "deepspeed": DeepSpeedConfig.model_validate(deepspeed | more.pop("deepspeed", {})),
            **more,
        }
    )


def learn(
    rollouts: Path, place: Path, attempts: Sequence[Attempt], settings: partial[BCConfig]
) -> Learned:
    """Train as the attempts say, each from what the one before has left. Raises RuntimeError where
    training had to start over, or went on to the end where it was to be killed.
    """
    begun = time.monotonic()
    for number, attempt in enumerate(attempts):
        job = job_of(rollouts, place, settings(attempt.ranks))
        saved = place / "checkpoints" / f"checkpoint-{attempt.killed_at}" / "complete"
        until = saved if attempt.killed_at else None
        ended = run(attempt.ranks, partial(train_rank, job), place / f"logs{number}", until)
        if ended != (attempt.killed_at is None):
            raise RuntimeError(f"attempt {number} ended by itself: {ended}")
    notices = read_json_lines(place / "notices.jsonl")
    if notices:
        raise RuntimeError(f"{notices}")
    return learned(job, time.monotonic() - begun)


def job_of(rollouts: Path, place: Path, config: BCConfig) -> BCJob:
    """Cloning in so many epochs as make the steps."""
    epochs = _epochs(rollouts, config)
    return BCJob(
        rollouts=rollouts,
        model=str(MODEL),
        system_prompt="",
        output=place / "model",
        stage=place,
        seed=0,
        config=config.model_copy(update={"epochs": epochs}),
    )


def learned(job: BCJob, seconds: float = 0.0) -> Learned:
    """What a job has logged and published."""
    return Learned(_losses(job.stage), _weights(job.output), seconds)


def _epochs(rollouts: Path, config: BCConfig) -> float:
    from r2v_dist.storage import rollouts as rollout_store

    played = rollout_store.outcomes(rollout_store.read(rollouts, ["key", "t", "success"]))
    successes: int = played["success"].to_pylist().count(True)
    return STEPS * config.batch_size / successes


def _losses(place: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_json_lines(place / "metrics.jsonl")}


def _weights(model: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    weights: dict[str, Any] = {}
    for path in sorted(model.glob("*.safetensors")):
        weights |= load_file(path)
    return weights


if __name__ == "__main__":
    main()
