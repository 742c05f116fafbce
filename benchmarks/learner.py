"""Behaviour cloning and preference learning against stock TRL trainers: seconds a step, once
training is under way.

Invariant: both sides start from the same checkpoint and see the same token ids in the same batches;
their losses are compared before any time counts. Ours runs as in a run (Ray Train, DeepSpeed, one
rank, cloning's micro-batches by length), the reference as TRL's documentation has it: a plain
process, a batch one pass. Both have the same threads and the same niceness.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.collector import Collector, StageFolder
from actors.env_runner import EnvRunner, RunnerSetup
from benchmarks.games import make_tasks, make_units
from benchmarks.harness import Mismatch, Pairs, Spent, interleave, median_wall, publish
from benchmarks.stock_trainers import run_stock, tokenizer, train_stock, write_settings
from learners.behaviour_cloning.train import BCJob, clone_behaviour
from learners.behaviour_cloning.train import build_dataset as build_episodes
from learners.common.hf_trainer import LOGGED_EVERY
from learners.dpo import pairs as preference_pairs
from learners.dpo.pairs import build_pairs
from learners.dpo.train import DPOJob, learn_preferences
from learners.dpo.train import build_dataset as build_pair_examples
from r2v_dist.chat import ChatFormat, Turn, opening_message
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.deepspeed import DeepSpeedConfig
from r2v_dist.config.learners import BCConfig, DPOConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm
from r2v_dist.labels import branch_values
from r2v_dist.labels.branch_values import BranchValue
from r2v_dist.pretrained.places import model_path
from r2v_dist.storage import rollouts as rollout_store

TINY = Path(__file__).parent.parent / "models" / "textworld-tiny"
SEEDS = (0, 1, 2, 3)
SAME_LOSS = 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--games", type=int, default=16)
    parser.add_argument("--steps", type=int, default=25, help="optimizer steps a run")
    parser.add_argument("--batch", type=int, default=16, help="episodes or pairs an optimizer step")
    parser.add_argument(
        "--model",
        default=str(TINY),
        help="a Hugging Face directory, or a name that `r2v models list` shows",
    )
    parser.add_argument("--only", choices=("bc", "dpo"))
    parser.add_argument("--stock", choices=("bc", "dpo"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.batch < 4:
        parser.error(f"--batch {args.batch}: at least 4, since both sides divide one in four")
    if args.steps < 2 * LOGGED_EVERY:
        parser.error(
            f"--steps {args.steps}: at least {2 * LOGGED_EVERY}; a time lies between two lines of "
            f"metrics, which come every {LOGGED_EVERY} steps"
        )
    if args.stock:
        train_stock(args.stock, args.folder)
        return
    from cluster.session import ray_session

    with (
        tempfile.TemporaryDirectory() as name,
        ray_session(ClusterConfig(num_cpus=2), Path(name) / "logs"),
    ):
        folder = Path(name)
        model = model_path(args.model, "--model").resolve()
        size = Size(model, args.batch, args.steps, args.repeats)
        play_expert(folder / "rollouts", args.games)
        if args.only != "dpo":
            compare_cloning(folder, size)
        if args.only != "bc":
            compare_preferences(folder, size)


@dataclass(frozen=True)
class Size:
    """What both sides train: `steps` optimizer steps of `batch` episodes or pairs, `repeats`
    times.
    """

    model: Path
    batch: int
    steps: int
    repeats: int

    def epochs(self, examples: int) -> float:
        """Passes over the examples that take so many steps."""
        return self.steps * self.batch / examples

    def shared(self, micro: int) -> dict[str, Any]:
        """The settings of both learners."""
        return {
            "batch_size": self.batch,
            "micro_batch_size": micro,
            "save_every_steps": 10**6,
            "deepspeed": DeepSpeedConfig(zero_stage=0),
        }


def compare_cloning(folder: Path, size: Size) -> None:
    """The same sequences and the same loss; then the time of the reference where it divides batches
    by length too.
    """
    chat = ChatFormat(tokenizer(size.model), "slm")
    dataset = build_episodes(folder / "rollouts", chat, 1024)
    config = BCConfig(
        learning_rate=5e-4,
        epochs=size.epochs(len(dataset)),
        max_length=1024,
        **size.shared(size.batch // 4),
    )
    by_length = {
        "per_device_train_batch_size": size.batch // 4,
        "gradient_accumulation_steps": 4,
        "train_sampling_strategy": "batch_rebalance",
    }
    for name, more in (("bc", {}), ("bc-by-length", by_length)):
        dataset.save_to_disk(str(folder / name / "data"))
        write_settings(folder / name, size.model, config, **more)

    def train(stage: Path, how: BCConfig = config) -> None:
        clone_behaviour(
            BCJob(
                rollouts=folder / "rollouts",
                model=str(size.model),
                system_prompt="",
                output=stage / "model",
                stage=stage,
                seed=0,
                config=how,
            )
        )

    tokens = sum(map(len, dataset["input_ids"])) / len(dataset) * size.batch
    train(
        folder / "bc" / "unpadded",
        config.model_copy(update={"padding_free": True, "micro_batch_size": size.batch}),
    )
    unpadded_s, _ = read(folder / "bc" / "unpadded" / "metrics.jsonl")
    (folder / "bc-by-length" / "stock").mkdir()
    run_stock("bc", folder / "bc-by-length" / "stock")
    by_length_s, _ = read(folder / "bc-by-length" / "stock" / "metrics.jsonl")
    more = {
        "padding_free_step_s": unpadded_s,
        "padding_free_tokens_per_s": tokens / unpadded_s,
        "reference_by_length_step_s": by_length_s,
    }
    compare("bc", folder / "bc", train, size.repeats, "TRL SFTTrainer", tokens, **more)


def compare_preferences(folder: Path, size: Size) -> None:
    """The same pairs under DPO's loss alone; then the time of the whole objective."""
    table, _ = build_pairs(branch_values.to_table(branches(folder / "rollouts")), 0.1)
    preference_pairs.save(folder / "pairs.arrow", table)
    dataset, counts = build_pair_examples(table, ChatFormat(tokenizer(size.model), "slm"), 1024)
    dataset.save_to_disk(str(folder / "dpo" / "data"))
    config = DPOConfig(
        learning_rate=1e-4,
        epochs=size.epochs(len(dataset)),
        max_length=1024,
        beta_c=0,
        beta_s=0,
        **size.shared(size.batch),
    )
    write_settings(folder / "dpo", size.model, config)

    def learn(stage: Path, objective: DPOConfig = config) -> None:
        learn_preferences(
            DPOJob(
                pairs=folder / "pairs.arrow",
                model=str(size.model),
                system_prompt="",
                output=stage / "model",
                stage=stage,
                seed=0,
                config=objective,
            )
        )

    prompt_tokens = sum(map(len, dataset["prompt_ids"]))
    answer_tokens = sum(map(len, dataset["chosen_ids"])) + sum(map(len, dataset["rejected_ids"]))
    tokens = 2 * prompt_tokens + answer_tokens
    learn(folder / "dpo" / "whole", config.model_copy(update={"beta_c": 0.1, "beta_s": 0.1}))
    whole, _ = read(folder / "dpo" / "whole" / "metrics.jsonl")
    share = counts.with_view / counts.examples
    compare(
        "dpo",
        folder / "dpo",
        learn,
        size.repeats,
        "TRL DPOTrainer",
        tokens / len(dataset) * size.batch,
        whole_objective_s=whole,
        view_share=share,
    )


def compare(
    kind: str,
    folder: Path,
    train: Callable[[Path], None],
    repeats: int,
    reference: str,
    tokens: float,
    **more: Any,
) -> None:
    """Alternate both sides and print the result. `tokens` are a batch's own, padding
    not counted.
    """
    runs = iter(range(10**6))
    losses: dict[str, list[float]] = {}

    def timed(side: str, work: Callable[[Path], None]) -> Spent:
        stage = folder / f"{side}-{next(runs)}"
        stage.mkdir(parents=True)
        work(stage)
        seconds, losses[side] = read(stage / "metrics.jsonl")
        return Spent(seconds)

    pairs = interleave(
        lambda: timed("ours", train),
        lambda: timed("stock", lambda stage: run_stock(kind, stage)),
        repeats,
    )
    worst = max(abs(a - b) for a, b in zip(losses["ours"], losses["stock"], strict=True))
    if worst > SAME_LOSS:
        raise Mismatch(
            f"{kind} losses differ by {worst:.2g}: ours {losses['ours']}, reference "
            f"{losses['stock']}"
        )
    publish_times(f"learner_{kind}", reference, pairs, tokens, loss_difference=worst, **more)


def publish_times(name: str, reference: str, pairs: Pairs, tokens: float, **more: Any) -> None:
    """Print seconds a step and tokens a second of both sides."""
    step_s = median_wall(pairs.ours)
    reference_step_s = median_wall(pairs.reference)
    rate = tokens / step_s
    reference_rate = tokens / reference_step_s
    table = [
        ("s/step", f"{step_s:.3f}", f"{reference_step_s:.3f}"),
        ("tokens/s, without padding", f"{rate:,.0f}", f"{reference_rate:,.0f}"),
    ]
    publish(
        name,
        reference,
        pairs.wall_ratio,
        table,
        step_s=step_s,
        reference_step_s=reference_step_s,
        tokens_per_s=rate,
        reference_tokens_per_s=reference_rate,
        repeats=len(pairs.ours),
        **more,
    )


def read(metrics: Path) -> tuple[float, list[float]]:
    """Seconds a step between the first and the last line, and the losses."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    seconds = rows[-1]["seconds"] - rows[0]["seconds"]
    steps = rows[-1]["step"] - rows[0]["step"]
    return seconds / steps, [row["loss"] for row in rows]


def play_expert(folder: Path, games: int) -> None:
    """Expert episodes of generated games, clean and perturbed."""
    setup = RunnerSetup(
        ModelConfig(backend="simulated"), ModelConfig(backend="expert"), "", "", PerturbConfig(), 60
    )
    collector = Collector(StageFolder(folder, 64, 1e9))

    async def deliver(episodes: Any) -> None:
        collector.add(episodes)

    async def play() -> None:
        runner = EnvRunner(setup, None, None)
        for unit in make_units(
            make_tasks(games), SEEDS, Arm("teacher_only", None, "none", "expert", 0)
        ):
            await runner.run(unit, deliver)

    asyncio.run(play())
    collector.flush()


def branches(folder: Path) -> list[BranchValue]:
    """Every step as a state: the expert's action against one that does nothing. For timing only;
    nobody learns from these values.
    """
    rows: list[BranchValue] = []
    for episode in rollout_store.episodes_of(rollout_store.read(folder)):
        users = [
            opening_message(episode[0]["goal"], episode[0]["observation"]),
            *(step["observation"] for step in episode[1:]),
        ]
        turns = [
            Turn(user, step["action"], "teacher") for user, step in zip(users, episode, strict=True)
        ]
        for t, step in enumerate(episode):
            names = {name: step[name] for name in ("task", "split", "z", "prefix")}
            state = {
                "key": f"{step['key']}|{t}",
                **names,
                "t": t,
                "history": tuple(turns[:t]),
                "user": users[t],
                "candidate_ids": None,
            }
            good = BranchValue(
                candidate=step["action"],
                candidate_index=0,
                source="teacher",
                n=1,
                successes=1,
                state_hash=0,
                policy="none",
                **state,
            )
            rows += [
                good,
                replace(good, candidate="wait", candidate_index=1, source="slm", successes=0),
            ]
    return rows


if __name__ == "__main__":
    main()
