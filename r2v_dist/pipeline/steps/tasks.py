"""The stage that makes the tasks."""

import json
from dataclasses import asdict
from typing import Any

from r2v_dist.config.env import SPLITS
from r2v_dist.files import write_atomically
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.progress import Progress
from r2v_dist.seeding import short_hash


def tasks(context: Context) -> dict[str, Any]:
    """Make the tasks of every split."""
    from envs.tasks import make_tasks

    progress = Progress("tasks")
    config = context.config

    def show(count: int, total: int) -> None:
        progress.update(count, total, "games generated")

    tasks = make_tasks(config.env, config.seed, context.services.cores(), show, config.sandbox)
    write_atomically(
        context.run.stage("tasks") / "tasks.json",
        json.dumps([asdict(task) for task in tasks], indent=1),
    )
    counts = {split: sum(t.split == split for t in tasks) for split in SPLITS}
    progress.close(
        ", ".join(f"{count} {split}" for split, count in counts.items() if count) + " tasks"
    )
    return {"counts": counts, "ids": short_hash(*(t.id for t in tasks))}
