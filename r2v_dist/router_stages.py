"""The stages that make the router (METHOD sections 6 to 8).

    visits     tasks, policy            -> rollouts/visits     the SLM as deployed, alone and under random escalation
    labels     visits                   -> rollouts/labels     S-, T1- and Tinf-branches; stages/labels/{train,validation}.arrow
    router     labels                   -> checkpoints/router  the router, its ablations, the query-level classifier
    visits2, labels2, router2                                  the same on the paths of the first router (two rounds)
    validate   tasks, router            -> rollouts/validate   every router, live, on validation tasks; thresholds are chosen here
    calibrate  tasks, validate          -> rollouts/calibrate  the router on calibration tasks, which touch nothing else

States of validation tasks stop and calibrate the training; nothing is trained on them.
"""

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from r2v_dist import branching, rollout_store
from r2v_dist.branching import State
from r2v_dist.certificate import task_losses
from r2v_dist.config import LEARNED
from r2v_dist.env_config import Split
from r2v_dist.episodes import Arm, Unit
from r2v_dist.errors import RuntimeFailure
from r2v_dist.labels import LabelTable
from r2v_dist.learner_config import RouterConfig
from r2v_dist.query_features import QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION
from r2v_dist.query_router import QueryOutcomes, train_query_router
from r2v_dist.router_model import RiskPrediction, RouterModel
from r2v_dist.routers import RouterModels
from r2v_dist.run_dir import RunDir
from r2v_dist.stages import Context

if TYPE_CHECKING:
    from learners.router import RouterJob

SPLITS: tuple[Split, Split] = ("train", "validation")
QUERY = "query_level"
NEVER = math.inf
"""The threshold of a router that only watches: its scores along the SLM's own path are what thresholds are chosen from."""
ALWAYS = -1e9
"""No score is below it."""
_UNSURE = (0.1, 0.9)
_SECOND_ROUND_RATE = 0.25


def visits(context: Context) -> dict[str, Any]:
    """The SLM alone and under random escalation, so that states after a hand-over are met too."""
    arm, config = context.deploy(), context.config
    return context.roll_out(_learning_units(context, (arm(config.alone), arm("random", config.labels.random_rate))))


def second_visits(context: Context) -> dict[str, Any]:
    """The first round's router on its own paths."""
    arm = context.deploy(trained(context, "router"))
    return context.roll_out(_learning_units(context, (arm("r2v", context.result("router", "threshold")),)))


def labels(context: Context) -> dict[str, Any]:
    """Branches of the first round: every state of the SLM alone has a hand-over, a sample of all states the rest besides."""
    config = context.config.labels
    states = _visited(context, "visits")
    n = {state.key: config.n for split, count in _counts(context).items() for state in branching.sample(_of(states, split), count, 0)}
    handed_over = {state.key for state in states if state.router == context.config.alone}
    return _label(context, states, n, handed_over)


def second_labels(context: Context) -> dict[str, Any]:
    """Branches of the second round, at half as many states. How many depends on the features alone: more where the first router is
    unsure. Besides, pairs in which the first router goes on, at states on its paths of the training tasks, the likelier the more dissent it
    expects there."""
    config, model = context.config.labels, _load(context, "router", "r2v")
    known, visited = {state.key for state in _visited(context, "visits")}, _visited(context, "visits2")
    states = [state for state in visited if state.key not in known]
    n: dict[str, int] = {}
    for split, count in _counts(context).items():
        chosen = branching.sample(_of(states, split), (count + 1) // 2, 1)
        risk = _predicted(model, chosen).rho
        more = config.n_unsure if split == "train" else config.n  # what calibrates has equal n
        n |= {s.key: more if _UNSURE[0] < r < _UNSURE[1] else config.n for s, r in zip(chosen, risk, strict=True)}
    own = _of(visited, "train")
    dissent = _predicted(model, own).dissent
    paired = {s.key for s in branching.sample(own, config.pairs, 2, None if dissent is None else dissent.tolist())}
    return _label(context, visited, n, set(n), paired)


def _predicted(model: RouterModel, states: list[State]) -> RiskPrediction:
    return model.predict(np.array([state.features for state in states]).reshape(len(states), len(model.feature_names)))


def router(context: Context) -> dict[str, Any]:
    """Train on the first round's labels."""
    return _train(context, ("labels",), ("r2v",) if context.config.labels.rounds == 2 else _variants(context))


def second_router(context: Context) -> dict[str, Any]:
    """Train on both rounds' labels."""
    return _train(context, ("labels", "labels2"), _variants(context))


def validate(context: Context) -> dict[str, Any]:
    """Sweep every router on the validation tasks and choose its threshold there."""
    from envs.tasks import seeds
    from r2v_dist.evaluation import arm_outcomes, router_rows, selected_thresholds

    config = context.config
    arm = context.deploy(trained(context, last_round(context)))
    tasks, zs = context.tasks("validation"), seeds(config.perturb, "validation")
    ends = _ends(context, arm)
    watching = tuple(arm(name, NEVER) for name in config.swept if name != "random")
    units = [context.unit(task, None, ends) for task in tasks] + [context.unit(task, z, (*ends, *watching)) for task in tasks for z in zs]
    context.roll_out(units)
    thresholds = grid(context.run.rollouts(context.stage), config.swept, config.evaluate.rates)
    swept = sweep(arm, thresholds)
    results = context.roll_out([context.unit(task, z, swept) for task in tasks for z in zs])
    rows = router_rows(arm_outcomes(context.run.rollouts(context.stage)), config.evaluate.bootstrap, context.seed)
    epsilon = config.router.epsilon if config.router is not None else RouterConfig().epsilon
    return results | {"thresholds": thresholds, "selected": selected_thresholds(rows, epsilon)}


def calibrate(context: Context) -> dict[str, Any]:
    """Play the router on the calibration tasks, from always escalating to its cheapest threshold."""
    from envs.tasks import seeds

    arm = context.deploy(trained(context, last_round(context)))
    zs = seeds(context.config.perturb, "calibration")
    arms = [arm("r2v", threshold) for threshold in (ALWAYS, *context.result("validate", "thresholds")["r2v"])]
    results = context.roll_out([context.unit(task, z, tuple(arms)) for task in context.tasks("calibration") for z in zs])
    return results | {"thresholds": [one.threshold for one in arms]}


def test_seeds(context: Context) -> list[int]:
    """The perturbation seeds of the test split."""
    from envs.tasks import seeds

    return seeds(context.config.perturb, "test")


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
    from r2v_dist.evaluation import arm_outcomes

    successes = {arm.threshold: arm.success_TZ for arm in arm_outcomes(folder)}
    return np.stack([task_losses(1.0 - successes[threshold], statistic, alpha) for threshold in thresholds])


def trained(context: Context, stage: str | None) -> RouterModels:
    """The routers that a stage published; none without a stage."""
    names = context.result(stage, "routers") if stage is not None else ()
    models = {(name, context.training_seed): _load(context, stage, name) for name in names if stage is not None}
    return RouterModels(models, oracle_branches=context.config.evaluate.oracle_branches)


def load_router(run: RunDir, name: str, path: str) -> RouterModel:
    """A published router of a run."""
    if name == QUERY:
        return RouterModel.load(run.root / path, QUERY_FEATURE_NAMES, QUERY_FEATURE_VERSION)
    return RouterModel.load(run.root / path)


def _load(context: Context, stage: str, name: str) -> RouterModel:
    return load_router(context.run, name, context.result(stage, "routers")[name])


def last_round(context: Context) -> str | None:
    """The stage whose routers are deployed, None where no router is trained."""
    if context.config.router is None:
        return None
    return "router2" if context.config.labels.rounds == 2 else "router"


def _variants(context: Context) -> tuple[str, ...]:
    """The router comes first: certificate and second round need it even where its arms are not evaluated."""
    return ("r2v", *(name for name in context.config.swept if name in LEARNED and name != "r2v"))


def _ends(context: Context, arm: Callable[..., Arm]) -> tuple[Arm, ...]:
    """The SLM alone, by one sample and as deployed, and the teacher alone."""
    return tuple(arm(name) for name in dict.fromkeys(("slm_only", context.config.alone, "teacher_only")))


def _learning_units(context: Context, arms: tuple[Arm, ...]) -> list[Unit]:
    from envs.tasks import seeds

    config, units = context.config, list[Unit]()
    for split, count in zip(SPLITS, (config.labels.tasks, config.labels.validation_tasks), strict=True):
        zs = seeds(config.perturb, split)[: config.labels.seeds]
        tasks = context.training_tasks("label") if split == "train" else context.tasks(split)[:count]
        units += [context.unit(task, z, arms) for task in tasks for z in zs]
    return units


def _visited(context: Context, stage: str) -> list[State]:
    config = context.config
    return branching.states_of(rollout_store.read(context.rollouts(stage)), config.env.max_steps, config.alone)


def _of(states: list[State], split: str) -> list[State]:
    return [state for state in states if state.split == split]


def _counts(context: Context) -> dict[Split, int]:
    return dict(zip(SPLITS, (context.config.labels.states, context.config.labels.validation_states), strict=True))


def _label(
    context: Context, states: list[State], n: Mapping[str, int], handed_over: Set[str], paired: Set[str] = frozenset()
) -> dict[str, Any]:
    """Branch, and write the label tables: n T1-branches by state key, a Tinf-branch where a state is handed over, and n S-branches
    where the SLM's own episode did not go on from there already, which is as good as one. At `paired` states the first round's
    router goes on at the threshold of its own visits."""
    config = context.config
    arm = context.deploy(trained(context, "router") if paired else None)
    alone, teacher = arm(config.alone), arm("teacher_only")
    router = arm("r2v", context.result("router", "threshold")) if paired else alone
    tasks = {task.id: task for task in context.tasks(*SPLITS)}
    asked: dict[tuple[str, int], list[Any]] = {}
    for state in states:
        count = n.get(state.key, 0)
        n_s = count if state.own_success is None else 0
        own = branching.label_branches(state, alone, teacher, n_s, count, int(state.key in handed_over))
        own += branching.paired_branches(state, router, int(state.key in paired))
        asked.setdefault((state.task, state.z), []).extend(own)
    results = context.roll_out([context.unit(tasks[task], z, branches=own) for (task, z), own in asked.items() if own])
    rows = rollout_store.read(context.run.rollouts(context.stage))
    for split in SPLITS:
        table, left_out = branching.labels(_of(states, split), rows, config.alone)
        table.save(context.run.stage(context.stage) / f"{split}.arrow")
        results |= {f"{split}_states": len(table), f"{split}_branched": int((table.n1 > 0).sum()), "drifted": left_out["drifted"]}
    return results


def _train(context: Context, stages: tuple[str, ...], variants: tuple[str, ...]) -> dict[str, Any]:
    from learners.router import train_routers

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
                "or set router.score = value, which needs none"
            )
        joined.save(folder / f"{split}.arrow")
    root = run.checkpoint("router", f"{context.stage}-{context.input_hash[:8]}")
    jobs = {name: _job(context, config.router, folder, root, name) for name in variants}
    with context.crew.learner_progress(context.stage, folder / "metrics.jsonl", config.router.deepspeed.ranks):
        results = dict(zip(jobs, train_routers(list(jobs.values())), strict=True))
    paths = {name: str(job.output.relative_to(run.root)) for name, job in jobs.items()}
    if QUERY in config.swept:
        paths[QUERY] = str((root / QUERY).relative_to(run.root))
        _query_router(context).save(root / QUERY)
    return {
        "routers": paths,
        "threshold": _often(LabelTable.load(folder / "train.arrow"), load_router(run, "r2v", paths["r2v"])),
        "training": {name: asdict(result) | {"output": paths[name]} for name, result in results.items()},
    }


def _often(labels: LabelTable, model: RouterModel) -> float:
    """The threshold that one in four states of the SLM alone exceeds: about where a router is deployed, most tasks are solved."""
    alone = labels.source == "slm_only"
    return float(np.quantile(model.predict(labels.features_NF[alone]).score, 1 - _SECOND_ROUND_RATE))


def _job(context: Context, config: RouterConfig, folder: Path, root: Path, name: str) -> "RouterJob":
    from learners.router import RouterJob, variant_of

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
    return found
