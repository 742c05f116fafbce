"""Checkpoints in training where the run has an address: its nodes share no storage, so every rank's
part of a checkpoint is an object before the checkpoint counts.

Invariant: a checkpoint counts once `complete` is among its objects, which is written when every
node has uploaded what it has. All ranks then find the same last checkpoint, whatever their node
kept of an earlier attempt.
"""

import shutil
from pathlib import Path
from typing import Any

from r2v_dist.object_storage import mirror as mirrors

COMPLETE = "complete"
METRICS = "metrics.jsonl"
NOTICES = "notices.jsonl"
"""In a learner's folder: what its ranks have to say to the user."""
_KEPT = 2
"""Checkpoints at the address; a node keeps the last one."""


def fetch_last(stage: Path) -> None:
    """Have the last whole checkpoint of a stage here, and no other. Call before training starts."""
    mirror = mirrors.of(stage)
    if mirror is None:
        return
    folder = stage / "checkpoints"
    last = max(_whole(mirror.names(folder)), key=step_of, default=None)
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint.name != last:
            shutil.rmtree(checkpoint, ignore_errors=True)
    if last is not None:
        mirror.pull(folder / last)


def keep(checkpoint: Path, args: Any) -> None:
    """Have a checkpoint that all ranks have written as objects, and mark it. Call on every rank."""
    import torch.distributed

    mirror = mirrors.of(checkpoint)
    assert mirror is not None
    first = torch.distributed.get_rank() == 0
    if first:
        mirror.forget(checkpoint)  # an earlier attempt, of other ranks, may have left parts of it
    torch.distributed.barrier()
    if args.local_process_index == 0:
        mirror.share(path for path in checkpoint.rglob("*") if path.name != COMPLETE)
        for sibling in checkpoint.parent.glob("checkpoint-*"):
            if sibling != checkpoint:
                shutil.rmtree(sibling, ignore_errors=True)
    torch.distributed.barrier()
    if first:
        share_notes(checkpoint.parents[1])
        (checkpoint / COMPLETE).touch()
        mirror.share([checkpoint / COMPLETE])
        names = mirror.names(checkpoint.parent)
        oldest = sorted(map(step_of, _whole(names)))[-_KEPT:][0]
        for checkpoint_name in {name.split("/")[0] for name in names}:
            if step_of(checkpoint_name) < oldest:
                mirror.remove(checkpoint.parent / checkpoint_name)


def share_notes(stage: Path) -> None:
    """Have what the first rank wrote of its training as objects."""
    if mirror := mirrors.of(stage):
        mirror.share([stage / METRICS, stage / NOTICES, *(stage / "tensorboard").rglob("*")])


def follow(checkpoint: Path, way: str) -> None:
    """Have on this node what the first rank made of a checkpoint. Call on every rank.

    Args:
        way: as `other_ranks.prepare` decides.
    """
    import torch.distributed

    mirror = mirrors.of(checkpoint)
    if mirror is None:
        return
    first = torch.distributed.get_rank() == 0
    if way == "universal":
        if first:
            mirror.share(checkpoint.rglob("*"))
        torch.distributed.barrier()
        mirror.pull(checkpoint)
    elif way == "again":
        if first:
            mirror.remove(checkpoint.parent)
        torch.distributed.barrier()
        shutil.rmtree(checkpoint.parent, ignore_errors=True)
    torch.distributed.barrier()


def step_of(name: str) -> int:
    """The step of a checkpoint's name."""
    return int(name.rpartition("-")[2])


def _whole(names: list[str]) -> set[str]:
    """The checkpoints that count, of the names of all objects of a folder."""
    return {name.split("/")[0] for name in names if name.endswith(f"/{COMPLETE}")}
