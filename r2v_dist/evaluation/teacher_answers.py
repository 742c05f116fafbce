"""How many answers of the teacher the training of each router took.

Only what a router learns from counts, on training and validation tasks: the SLM and its verifier
are the same for all routers. An answer that a tree gives from memory is not asked for again.
"""

import numpy as np
import pyarrow.compute as pc

from r2v_dist.config.run import RunConfig
from r2v_dist.labels.table import LabelTable
from r2v_dist.router.names import ROUTERS
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import RunDir, stage_name

_PLAYED = ("visits", "labels", "visits2", "labels2")
"""The stages whose episodes label states."""
_SPLITS = ("train", "validation")


def teacher_answers(run: RunDir, config: RunConfig, training_seed: int) -> dict[str, int]:
    """By the name of a router; those of which it is no question, and those whose labels are not
    complete, are not there.
    """
    counts = {"outcomes": 0}
    if config.router is not None and run.manifest(stage_name("labels", training_seed)) is not None:
        counts["answers"] = _disagreements(run, training_seed)
        counts["branches"] = sum(_questions(run, stage, training_seed) for stage in _PLAYED)
    answers = {}
    for info in ROUTERS:
        if info.fitted is False:
            answers[info.name] = 0
        elif info.learns_from in counts:
            answers[info.name] = counts[info.learns_from]
    return answers


def _disagreements(run: RunDir, training_seed: int) -> int:
    """States of the SLM's own episodes at which the teacher said what it would do: one answer
    each.
    """
    folder = run.stage(stage_name("labels", training_seed))
    tables = [LabelTable.load(folder / f"{split}.arrow") for split in _SPLITS]
    return sum(
        int((np.isfinite(table.own_success) & np.isfinite(table.dissent)).sum()) for table in tables
    )


def _questions(run: RunDir, stage: str, training_seed: int) -> int:
    """Different states, by replica, at which the teacher acted in the episodes of a stage; steps
    that a branch repeats from its path are not asked again.
    """
    columns = ["task", "z", "prefix", "replica", "actor", "t", "branch_t"]
    table = rollout_store.read(run.rollouts(stage_name(stage, training_seed)), columns)
    fresh = pc.greater_equal(table["t"], pc.fill_null(table["branch_t"], 0))
    questions = table.filter(pc.and_(pc.equal(table["actor"], "teacher"), fresh))
    key_columns = [questions[name].to_pylist() for name in ("task", "z", "prefix", "replica")]
    return len({*zip(*key_columns, strict=True)})
