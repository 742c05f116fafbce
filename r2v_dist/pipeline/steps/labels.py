"""The stages that label states for the router (docs/method.md, section 6).

    visits     tasks, policy  -> rollouts/visits  the SLM as deployed, alone and under random
                                                  escalation
    labels     visits         -> rollouts/labels  S-, T1- and Tinf-branches;
                                                  stages/labels/{train,validation}.arrow
    visits2, labels2                              the same on the paths of the first round's router,
                                                  and pairs in which it goes on

States are chosen by their features alone, never by how their episodes ended.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from r2v_dist.config.env import Split
from r2v_dist.episodes import Arm, Unit
from r2v_dist.labels import estimates as branching
from r2v_dist.labels.branches import label_branches, paired_branches
from r2v_dist.labels.states import State, sample, states_of
from r2v_dist.labels.table import LabelTable
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.steps.router import SPLITS, as_learned, load_trained
from r2v_dist.router.model import RiskPrediction, RouterModel
from r2v_dist.storage import rollouts as rollout_store

_UNSURE = (0.1, 0.9)


def visits(context: Context) -> dict[str, Any]:
    """SLM-only and under random escalation, so that states after a hand-over are met too."""
    arm = context.deploy()
    config = context.config
    return context.roll_out(
        _learning_units(
            context, (arm(config.slm_only_router), arm("random", config.labels.random_rate))
        )
    )


def second_visits(context: Context) -> dict[str, Any]:
    """The first round's router on its own paths, at the threshold that `labels.followed_rate` of
    the SLM-only states exceed.
    """
    table = LabelTable.load(context.folder("router") / "train.arrow")
    score_N = (
        load_trained(context, "router", "r2v")
        .predict(table.features_NF[table.source == "slm_only"])
        .score
    )
    threshold = float(np.quantile(score_N, 1 - context.config.labels.followed_rate))
    arm = context.deploy(as_learned(context, "router"))
    return context.roll_out(_learning_units(context, (arm("r2v", threshold),))) | {
        "threshold": threshold
    }


def labels(context: Context) -> dict[str, Any]:
    """Branches of the first round: every SLM-only state gets a Tinf-branch; a sample of all states
    also gets S- and T1-branches.
    """
    config = context.config.labels
    states = _visited(context, "visits")
    n: dict[str, int] = {}
    for split, count in _counts(context).items():
        n |= dict.fromkeys((state.key for state in sample(_of(states, split), count, 0)), config.n)
    handed_over = {state.key for state in states if state.router == context.config.slm_only_router}
    return _label(context, states, n, handed_over)


def second_labels(context: Context) -> dict[str, Any]:
    """Branches of the second round, at half as many states. How many depends on the features alone:
    more where the first router is unsure. Besides, pairs in which the first router goes on, at
    states on its paths of the training tasks, the likelier the more dissent it expects there.
    """
    config = context.config.labels
    model = load_trained(context, "router", "r2v")
    earlier_keys = {state.key for state in _visited(context, "visits")}
    path_states = _visited(context, "visits2")
    states = [state for state in path_states if state.key not in earlier_keys]
    n: dict[str, int] = {}
    for split, count in _counts(context).items():
        sampled_states = sample(_of(states, split), (count + 1) // 2, 1)
        risk = _predicted(model, sampled_states).rho
        n_unsure = config.n_unsure if split == "train" else config.n  # what calibrates has equal n
        n |= {
            s.key: n_unsure if _UNSURE[0] < r < _UNSURE[1] else config.n
            for s, r in zip(sampled_states, risk, strict=True)
        }
    training_states = _of(path_states, "train")
    dissent = _predicted(model, training_states).dissent
    weights = None if dissent is None else dissent.tolist()
    paired = {s.key for s in sample(training_states, config.pairs, 2, weights)}
    return _label(context, path_states, n, set(n), paired)


def _label(
    context: Context,
    states: list[State],
    n: Mapping[str, int],
    handed_over: Set[str],
    paired: Set[str] = frozenset(),
) -> dict[str, Any]:
    """Branch, and write the label tables: n T1-branches by state key, a Tinf-branch where a state
    is handed over, and n S-branches where the SLM's own episode did not go on from there already,
    which is as good as one. At `paired` states the first round's router goes on at the threshold of
    its own visits.
    """
    config = context.config
    arm = context.deploy(as_learned(context, "router") if paired else None)
    slm_only = arm(config.slm_only_router)
    teacher = arm("teacher_only")
    router = arm("r2v", context.result("visits2", "threshold")) if paired else slm_only
    tasks = {task.id: task for task in context.tasks(*SPLITS)}
    branches_by_unit: dict[tuple[str, int], list[Any]] = {}
    for state in states:
        count = n.get(state.key, 0)
        n_s = count if state.own_success is None else 0
        branches = label_branches(
            state, slm_only, teacher, n_s, count, int(state.key in handed_over)
        )
        branches += paired_branches(state, router, int(state.key in paired))
        branches_by_unit.setdefault((state.task, state.z), []).extend(branches)
    units = [
        context.unit(tasks[task], z, branches=branches)
        for (task, z), branches in branches_by_unit.items()
        if branches
    ]
    results = context.roll_out(units)
    rows = rollout_store.read(context.run.rollouts(context.stage))
    for split in SPLITS:
        table, omissions = branching.labels(_of(states, split), rows, config.slm_only_router)
        table.save(context.run.stage(context.stage) / f"{split}.arrow")
        results |= {
            f"{split}_states": len(table),
            f"{split}_branched": int((table.n1 > 0).sum()),
            "drifted": omissions["drifted"],
        }
    return results


def _predicted(model: RouterModel, states: list[State]) -> RiskPrediction:
    return model.predict(
        np.array([state.features for state in states]).reshape(
            len(states), len(model.feature_names)
        )
    )


def _learning_units(context: Context, arms: tuple[Arm, ...]) -> list[Unit]:
    config = context.config
    units = list[Unit]()
    for split, count in zip(
        SPLITS, (config.labels.tasks, config.labels.validation_tasks), strict=True
    ):
        zs = config.perturb.seeds(split, config.seed)[: config.labels.seeds]
        tasks = (
            context.training_tasks("label") if split == "train" else context.tasks(split)[:count]
        )
        for index, task in enumerate(tasks):
            task_zs = _met(zs, index, config.labels.seeds_per_task)
            units += [context.unit(task, z, arms) for z in task_zs]
    return units


def _met(zs: Sequence[int], index: int, count: int | None) -> list[int]:
    """The seeds that task number `index` meets, so that all are met equally often."""
    if count is None or count >= len(zs):
        return list(zs)
    return [zs[(index * count + i) % len(zs)] for i in range(count)]


def _visited(context: Context, stage: str) -> list[State]:
    config = context.config
    return states_of(
        rollout_store.read(context.rollouts(stage)), config.env.max_steps, config.slm_only_router
    )


def _of(states: list[State], split: str) -> list[State]:
    return [state for state in states if state.split == split]


def _counts(context: Context) -> dict[Split, int]:
    return dict(
        zip(
            SPLITS,
            (context.config.labels.states, context.config.labels.validation_states),
            strict=True,
        )
    )
