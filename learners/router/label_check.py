"""Whether labels can train a router, before any rank is started."""

from pathlib import Path

import numpy as np

from r2v_dist.config.router import RouterConfig
from r2v_dist.errors import UsageError
from r2v_dist.evaluation.handover import LatchedEpisodes
from r2v_dist.labels.table import LabelTable

MIN_SEEDS = 10
"""CVaR over fewer seeds says nothing (docs/method.md, section 0)."""


def check_labels(train: Path, validation: Path, config: RouterConfig) -> None:
    """Raises UsageError where the labels cannot train a router."""
    told_in_training = _check_table("train", train, config)
    told_in_validation = _check_table("validation", validation, config)
    if told_in_training != told_in_validation:
        raise UsageError(
            f"{validation}: the teacher's actions are known on one split and not on the other; "
            "label both again"
        )


def _check_table(split: str, path: Path, config: RouterConfig) -> bool:
    """Raises UsageError where one table is too small or lacks what it must have. Whether it says
    what the teacher would do.
    """
    labels = LabelTable.load(path)
    episodes = LatchedEpisodes.of(labels)
    seeds = len(np.unique(episodes.z_E))
    if seeds < MIN_SEEDS:
        raise UsageError(
            f"{path}: perturb.{split}_seeds: {seeds} seeds with complete episodes; CVaR needs "
            f"at least {MIN_SEEDS}"
        )
    for kind, n_N in (("S", labels.n), ("T1", labels.n1), ("Tinf", labels.nT)):
        if not n_N.sum():
            raise UsageError(
                f"{path}: no {kind}-branches; label the {split} tasks with all three kinds"
            )
    has_dissent = bool(labels.n_dissent.any())
    asks_for_dissent = config.mode == "decoupled" and config.score in ("dissent", "advantage")
    if asks_for_dissent and not has_dissent:
        raise UsageError(
            f"{path}: router.score = {config.score}: no label says what the teacher would "
            f"do; use score value"
        )
    if len(episodes) < config.deepspeed.ranks:
        raise UsageError(
            f"{path}: {len(episodes)} episodes for router.deepspeed.ranks = "
            f"{config.deepspeed.ranks}; use fewer ranks"
        )
    return has_dissent
