"""The stages that train the router and choose where it acts (METHOD sections 7 and 8).

    router     labels                   -> checkpoints/router  the router; where no second round follows also what router2 trains
    router2    labels, labels2                                 the router, its ablations and the query-level classifier
    validate   tasks, router            -> rollouts/validate   every router, live, on validation tasks; thresholds are chosen here
    calibrate  tasks, validate          -> rollouts/calibrate  the router on calibration tasks, which touch nothing else

States of validation tasks stop and calibrate the training; nothing is trained on them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from r2v_dist.config.env import Split
from r2v_dist.config.learners import RouterConfig
from r2v_dist.config.run import LEARNED
from r2v_dist.episodes import Arm
from r2v_dist.errors import RuntimeFailure
from r2v_dist.labels.table import LabelTable
from r2v_dist.pipeline.context import Context
from r2v_dist.router.model import RouterModel
from r2v_dist.router.query_classifier import QueryOutcomes, train_query_router
from r2v_dist.router.query_features import QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION
from r2v_dist.router.registry import RouterModels
from r2v_dist.stats.learn_then_test import task_losses
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import RunDir

if TYPE_CHECKING:
    from learners.router.train import RouterJob

SPLITS: tuple[Split, Split] = ("train", "validation")
QUERY = "query_level"
NEVER = math.inf
"""The threshold of a router that only watches: its scores along the SLM's own path are what thresholds are chosen from."""
ALWAYS = -1e9
"""No score is below it."""


def router(context: Context) -> dict[str, Any]:
    """Train on the first round's labels."""
    return _train(context, ("labels",), ("r2v",) if context.config.labels.rounds == 2 else _variants(context))


def second_router(context: Context) -> dict[str, Any]:
    """Train on both rounds' labels."""
    return _train(context, ("labels", "labels2"), _variants(context))


def validate(context: Context) -> dict[str, Any]:
    """Sweep every router on the validation tasks and choose its threshold there."""
    from envs.tasks import seeds
    from r2v_dist.evaluation.outcomes import arm_outcomes
    from r2v_dist.evaluation.threshold_selection import Tolerance, selected_thresholds

    config = context.config
    arm = context.deploy(trained(context, last_round(context)))
    tasks, zs = context.tasks("validation"), seeds(config.perturb, "validation", config.seed)
    ends = _ends(context, arm)
    watching = tuple(arm(name, NEVER) for name in config.swept if name != "random")
    units = [context.unit(task, None, ends) for task in tasks] + [context.unit(task, z, (*ends, *watching)) for task in tasks for z in zs]
    context.roll_out(units)
    thresholds = grid(context.run.rollouts(context.stage), config.swept, config.evaluate.rates)
    swept = sweep(arm, thresholds)
    results = context.roll_out([context.unit(task, z, swept) for task in tasks for z in zs])
    arms = arm_outcomes(context.run.rollouts(context.stage))
    selected = selected_thresholds(arms, Tolerance.of(config, context.training_seed))
    return results | {"thresholds": thresholds, "selected": selected}


def calibrate(context: Context) -> dict[str, Any]:
    """Play the router on the calibration tasks, from always escalating to its cheapest threshold."""
    from envs.tasks import seeds

    config = context.config
    arm = context.deploy(trained(context, last_round(context)))
    zs = seeds(config.perturb, "calibration", config.seed)
    arms = [arm("r2v", threshold) for threshold in (ALWAYS, *context.result("validate", "thresholds")["r2v"])]
    results = context.roll_out([context.unit(task, z, tuple(arms)) for task in context.tasks("calibration") for z in zs])
    return results | {"thresholds": [one.threshold for one in arms]}


def test_seeds(context: Context) -> list[int]:
    """The perturbation seeds of the test split."""
    from envs.tasks import seeds

    return seeds(context.config.perturb, "test", context.config.seed)


def evaluate(context: Context) -> dict[str, Any]:
    """Every router at every threshold, live, on test tasks and seeds."""
    arm = context.deploy(trained(context, last_round(context)))
    ends, swept = _ends(context, arm), sweep(arm, context.result("validate", "thresholds"))
    tasks, zs = context.tasks("test"), test_seeds(context)
    units = [context.unit(task, None, ends) for task in tasks]
    units += [context.unit(task, z, (*ends, *swept)) for task in tasks for z in zs]
    return context.roll_out(units)


def sweep(arm: Callable[..., Arm], thresholds: Mapping[str, list[float]]) -> tuple[Arm, ...]:
    """The arms of a grid of thresholds."""
    return tuple(arm(name, threshold) for name, levels in thresholds.items() for threshold in levels)


def calibration_losses(folder: Path, thresholds: list[float], statistic: Any, alpha: float) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Losses [thresholds, tasks] of the router on the calibration tasks."""
    from r2v_dist.evaluation.outcomes import arm_outcomes

    successes = {arm.threshold: arm.success_TZ for arm in arm_outcomes(folder)}
    return np.stack([task_losses(1.0 - successes[threshold], statistic, alpha) for threshold in thresholds])


def trained(context: Context, stage: str | None) -> RouterModels:
    """The routers that a stage published; none without a stage."""
    names = context.result(stage, "routers") if stage is not None else ()
    models = {(name, context.training_seed): load_trained(context, stage, name) for name in names if stage is not None}
    return RouterModels(models, oracle_branches=context.config.evaluate.oracle_branches)


def load_router(run: RunDir, name: str, path: str) -> RouterModel:
    """A published router of a run."""
    if name == QUERY:
        return RouterModel.load(run.root / path, QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION)
    return RouterModel.load(run.root / path)


def load_trained(context: Context, stage: str, name: str) -> RouterModel:
    """A router that an earlier stage published."""
    return load_router(context.run, name, context.result(stage, "routers")[name])


def last_round(context: Context) -> str | None:
    """The stage whose routers are deployed, None where no router is trained."""
    if context.config.router is None:
        return None
    return "router2" if context.config.labels.rounds == 2 else "router"


def _variants(context: Context) -> tuple[str, ...]:
    """The router comes first: the certificate needs it even where its arms are not evaluated."""
    return ("r2v", *(name for name in context.config.swept if name in (*LEARNED, QUERY) and name != "r2v"))


def _ends(context: Context, arm: Callable[..., Arm]) -> tuple[Arm, ...]:
    """The SLM alone, by one sample and as deployed, and the teacher alone."""
    return tuple(arm(name) for name in dict.fromkeys(("slm_only", context.config.alone, "teacher_only")))


def _train(context: Context, stages: tuple[str, ...], variants: tuple[str, ...]) -> dict[str, Any]:
    from learners.router.train import train_routers

    config, run = context.config, context.run
    assert config.router is not None
    folder = run.stage(context.stage)
    for split in SPLITS:
        tables = [LabelTable.load(context.folder(stage) / f"{split}.arrow") for stage in stages]
        joined = tables[0]
        for table in tables[1:]:
            joined = joined.plus(table)
        if split == "train" and len(stages) > 1 and config.router.score == "advantage" and not joined.disputed.any():
            raise RuntimeFailure(
                f"stage {context.stage}: no pair of branches from a state where the teacher does something else; raise labels.pairs, "
                "or set router.score = dissent, which needs none"
            )
        joined.save(folder / f"{split}.arrow")
    root = run.checkpoint("router", f"{context.stage}-{context.input_hash[:8]}")
    jobs = {name: _job(context, config.router, folder, root, name) for name in variants if name != QUERY}
    with context.crew.learner_progress(context.stage, folder / "metrics.jsonl", config.router.deepspeed.ranks):
        results = dict(zip(jobs, train_routers(list(jobs.values())), strict=True))
    paths = {name: str(job.output.relative_to(run.root)) for name, job in jobs.items()}
    if QUERY in variants:
        paths[QUERY] = str((root / QUERY).relative_to(run.root))
        _query_router(context).save(root / QUERY)
    return {
        "routers": paths,
        "training": {name: asdict(result) | {"output": paths[name]} for name, result in results.items()},
    }


def _job(context: Context, config: RouterConfig, folder: Path, root: Path, name: str) -> "RouterJob":
    from learners.router.train import RouterJob, variant_of

    train, validation = (folder / f"{split}.arrow" for split in SPLITS)
    return RouterJob(train, validation, root / name, folder, context.seed, variant_of(config, name))


def _query_router(context: Context) -> RouterModel:
    columns = ["key", "t", "z", "router", "goal", "observation", "success", "task", "split"]
    table = rollout_store.read(context.rollouts("visits"), columns)
    table = table.take(np.argsort(np.array(table["key"].to_pylist()), kind="stable"))  # not in the order of commits
    split = np.array(table["split"].to_pylist())
    train, validation = (QueryOutcomes.from_rows(table.filter(pa.array(split == name)), context.config.alone) for name in SPLITS)
    return train_query_router(train, validation, context.seed)


def grid(folder: Path, names: tuple[str, ...], rates: tuple[float, ...]) -> dict[str, list[float]]:
    """Thresholds of every router, ascending: where its score along the SLM's own path exceeds them at the given rates.

    Every episode weighs the same: a router that helps leaves the long tails of episodes in which the SLM alone is stuck.
    """
    table = rollout_store.read(folder, ["key", "router", "threshold", "score"])
    table = table.filter(pa.array(np.isposinf(table["threshold"].to_numpy()) & np.isfinite(table["score"].to_numpy())))
    routers, scores = np.array(table["router"].to_pylist()), table["score"].to_numpy()
    _, episode, steps = np.unique(np.array(table["key"].to_pylist()), return_inverse=True, return_counts=True)
    found: dict[str, list[float]] = {}
    for name in names:
        if name == "random":
            found[name] = sorted(rates)
            continue
        own = routers == name
        order = np.lexsort((episode[own], scores[own]))
        levels, weight = scores[own][order], (1.0 / steps[episode[own]])[order]
        below = np.cumsum(weight) / weight.sum() if len(levels) else weight
        picked = [levels[min(int(np.searchsorted(below, 1 - rate)), len(levels) - 1)] for rate in rates if len(levels)]
        lowest = levels[0] if len(levels) else 0.0  # a threshold that every step reaches is the teacher alone
        found[name] = sorted({float(level) for level in picked if level > lowest})
        if name == "r2v" and not found[name]:
            raise RuntimeFailure(
                f"{folder}: r2v's score is {lowest:.3g} nearly everywhere on the validation tasks, so no threshold tells states apart; "
                "raise labels.pairs and labels.states, or set router.score = value"
            )
    return found
