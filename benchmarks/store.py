"""Committing rollouts to the Arrow store against writing the same rows as JSON lines.

Invariant: both sides start from the same Episode objects and write every column of
`step_table.SCHEMA`; what is read back from both is equal, row by row, before any time counts.
"""

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.episodes import make_episodes
from benchmarks.harness import Pairs, Spent, interleave, measure, median_wall, publish, same
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.episodes import Episode, Step
from r2v_dist.storage import rollouts as rollout_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--episodes", type=int, default=512, help="of eight steps each")
    parser.add_argument(
        "--shard-episodes",
        type=int,
        default=ClusterConfig().shard_episodes,
        help="the collector's default",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(make_episodes(args.episodes), Path(scratch), args.shard_episodes, args.repeats)


def run(episodes: Sequence[Episode], scratch: Path, shard: int, repeats: int) -> None:
    """Compare writing, size and the first read; print the result."""
    folder = scratch / "arrow"
    lines = scratch / "rows.jsonl"
    write_arrow(folder, episodes, shard)
    write_jsonl(lines, episodes)
    check_equal(folder, lines)
    rows = sum(len(episode.steps) for episode in episodes)
    arrow_bytes = sum(file.stat().st_size for file in folder.iterdir())
    lines_bytes = lines.stat().st_size

    def ours() -> Spent:
        shutil.rmtree(folder)
        return measure(lambda: write_arrow(folder, episodes, shard))

    def reference() -> Spent:
        lines.unlink()
        return measure(lambda: write_jsonl(lines, episodes))

    written = interleave(ours, reference, repeats)
    read = interleave(
        lambda: measure(lambda: read_arrow(folder)),
        lambda: measure(lambda: read_jsonl(lines)),
        repeats,
    )
    publish_rates(rows, arrow_bytes, lines_bytes, written, read, shard)


def publish_rates(
    rows: int, arrow_bytes: int, lines_bytes: int, written: Pairs, read: Pairs, shard: int
) -> None:
    """Print speed and size of both formats."""
    rate = rows / median_wall(written.ours)
    reference_rate = rows / median_wall(written.reference)
    read_ms = 1e3 * median_wall(read.ours)
    reference_read_ms = 1e3 * median_wall(read.reference)
    table = [
        ("rows/s written", f"{rate:,.0f}", f"{reference_rate:,.0f}"),
        ("bytes/row", f"{arrow_bytes / rows:,.0f}", f"{lines_bytes / rows:,.0f}"),
        ("read `success`, ms", f"{read_ms:.1f}", f"{reference_read_ms:.1f}"),
    ]
    publish(
        "store",
        "json lines",
        written.wall_ratio,
        table,
        cpu_ratio=written.cpu_ratio,
        bytes_ratio=arrow_bytes / lines_bytes,
        read_ratio=read.wall_ratio,
        rows_per_s=rate,
        reference_rows_per_s=reference_rate,
        rows=rows,
        shard_episodes=shard,
        repeats=len(written.ours),
    )


def write_arrow(folder: Path, episodes: Sequence[Episode], shard: int) -> None:
    """As the collector does: one commit a shard."""
    for index, start in enumerate(range(0, len(episodes), shard)):
        rollout_store.commit(folder, index, episodes[start : start + shard])


def read_arrow(folder: Path) -> list[bool]:
    """The success column, from files nobody has opened yet in this call."""
    success: list[bool] = rollout_store.read(folder, ["success"])["success"].to_pylist()
    return success


def write_jsonl(path: Path, episodes: Sequence[Episode]) -> None:
    """The obvious alternative: one line a step, episode columns repeated as in the store."""
    with path.open("w", encoding="utf-8") as file:
        for episode in episodes:
            for row in rows_of(episode):
                file.write(json.dumps(row) + "\n")


def read_jsonl(path: Path) -> list[bool]:
    """The success column; every line must be parsed for it."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["success"] for line in file]


def rows_of(episode: Episode) -> Iterator[dict[str, Any]]:
    """Step rows with the store's columns. Written by hand, so that the reference pays for no
    indirection of ours.
    """
    key = episode.key
    arm = episode.arm
    shared = {
        "key": str(key),
        "stage": key.stage,
        "task": key.task,
        "split": episode.split,
        "z": key.z,
        "replica": key.replica,
        "arm": arm.id,
        "router": arm.router,
        "threshold": arm.threshold,
        "policy": arm.policy,
        "teacher": arm.teacher,
        "verifier": arm.verifier,
        "training_seed": arm.training_seed,
        "goal": episode.goal,
        "success": episode.success,
        "stop_reason": episode.stop_reason.value,
        "detail": episode.detail,
        "final_observation": episode.final_observation,
        "n_steps": len(episode.steps),
        "branch": None,
        "branch_t": None,
        "branch_prefix": None,
    }
    for t, step in enumerate(episode.steps):
        yield {**shared, "t": t, **_step_columns(step)}


def _step_columns(step: Step) -> dict[str, Any]:
    answer = step.proposal
    assert answer is not None
    return {
        "observation": step.observation,
        "clean_observation": step.clean_observation,
        "perturbations": step.perturbations,
        "actor": step.actor,
        "action": step.action,
        "action_ids": step.action_ids,
        "executed": step.executed,
        "score": step.score,
        "prefix": step.prefix,
        "drift": step.drift,
        "teacher_tokens": step.teacher_tokens,
        "verifier_scores": step.verifier_scores,
        "chosen_index": step.chosen_index,
        "prompt_tokens": answer.prompt_tokens,
        "slm_tokens": answer.sampled_tokens,
        "first_top_ids": list(answer.first_top.ids),
        "first_top_logprobs": list(answer.first_top.logprobs),
        "candidate_texts": [c.text for c in answer.candidates],
        "candidate_ids": [c.token_ids for c in answer.candidates],
        "candidate_logprobs": [c.logprobs for c in answer.candidates],
    }


def check_equal(folder: Path, path: Path) -> None:
    """Raises Mismatch unless both files say the same."""
    table = rollout_store.read(folder)
    with path.open(encoding="utf-8") as file:
        reference = [json.loads(line) for line in file]
    same("rows", table.num_rows, len(reference))
    same("columns", set(table.column_names), set(reference[0]))
    for index, (ours, theirs) in enumerate(zip(table.to_pylist(), reference, strict=True)):
        for name, value in theirs.items():
            if not _equal(ours[name], value):
                same(f"row {index}, column {name}", ours[name], value)
    same("success", read_arrow(folder), read_jsonl(path))


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    if isinstance(theirs, float) and isinstance(ours, float):
        return math.isclose(ours, theirs, rel_tol=1e-6)
    return bool(ours == theirs)


if __name__ == "__main__":
    main()
