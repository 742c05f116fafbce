"""The stage that chooses what r2v compares with its threshold (`router.score: validated`).

    score  tasks, router  -> rollouts/score, checkpoints/router  r2v by the score of largest
                                                                 frontier area

Invariant: scores are compared live, on validation tasks and seeds alone, and are those of the same
networks. The stage hands on all other routers as they are.
"""

from collections.abc import Mapping
from typing import Any

from r2v_dist.errors import RuntimeFailure
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.progress import Progress
from r2v_dist.pipeline.steps.evaluation import NEVER, sweep
from r2v_dist.pipeline.steps.router import RESCORED, held_as_r2v, last_fitted, load_trained
from r2v_dist.router.model import RouterModel, Score
from r2v_dist.router.names import made_by
from r2v_dist.storage.routers import publish_router

_LEAST = 1e-9
"""Areas that differ by less are equal: the first in the order of `RESCORED` is taken."""


def score(context: Context) -> dict[str, Any]:
    """Play r2v by each score and publish it by the best. Raises RuntimeFailure where no score
    tells the validation states apart."""
    earlier = last_fitted(context.config)
    assert earlier is not None
    ours = load_trained(context, earlier, "r2v")
    candidates = {name: ours.by(one) for name, one in RESCORED.items() if ours.can_score_by(one)}
    played, areas = _areas(context, candidates)
    best = max(areas.values())
    chosen = next(name for name, area in areas.items() if area >= best - _LEAST)
    by = RESCORED[chosen]
    Progress(context.stage).close(_said(areas, chosen))
    return played | {
        "routers": context.result(earlier, "routers") | _published(context, earlier, by),
        "score": by,
        "areas": {RESCORED[name]: area for name, area in areas.items()},
    }


def _areas(
    context: Context, candidates: Mapping[str, RouterModel]
) -> tuple[dict[str, Any], dict[str, float]]:
    """What was played, and the frontier area on validation tasks by candidate."""
    from r2v_dist.evaluation.comparison import SeedArms
    from r2v_dist.evaluation.outcomes import arm_outcomes
    from r2v_dist.evaluation.threshold_selection import grid
    from r2v_dist.stats.frontier import frontier_auc

    config = context.config
    arm = context.deploy(held_as_r2v(context, candidates))
    tasks = context.tasks("validation")
    zs = config.perturb.seeds("validation", config.seed)
    ends = tuple(arm(name) for name in (config.alone, "teacher_only"))
    watching = tuple(arm(name, NEVER) for name in candidates)
    context.roll_out([context.unit(task, z, (*ends, *watching)) for task in tasks for z in zs])
    folder = context.run.rollouts(context.stage)
    thresholds = grid(folder, tuple(candidates), config.evaluate.rates)
    if not any(thresholds.values()):
        raise RuntimeFailure(
            f"{folder}: no score tells the validation states apart; raise labels.states, or "
            "label more tasks"
        )
    swept = sweep(arm, thresholds)
    played = context.roll_out([context.unit(task, z, swept) for task in tasks for z in zs])
    arms = SeedArms(context.training_seed, tuple(arm_outcomes(folder)), {}, config.alone)
    return played, {
        name: frontier_auc(arms.curve(name), arms.ends) for name in candidates if thresholds[name]
    }


def _published(context: Context, earlier: str, by: Score) -> dict[str, str]:
    """r2v and those of its ablations that are routed as it is, by the chosen score."""
    root = context.run.checkpoint("router", f"{context.stage}-{context.input_hash[:8]}")
    ours = load_trained(context, earlier, "r2v")
    paths = {}
    for name in context.result(earlier, "routers"):
        if name not in made_by("learner"):
            continue
        model = load_trained(context, earlier, name)
        if (model.mode, model.score) == (ours.mode, ours.score) and name not in RESCORED:
            publish_router(model.by(by), root / name)
            paths[name] = str((root / name).relative_to(context.run.root))
    return paths


def _said(areas: Mapping[str, float], chosen: str) -> str:
    others = ", ".join(
        f"{RESCORED[name]} {area:.3f}" for name, area in areas.items() if name != chosen
    )
    beside = f" ({others})" if others else ""
    return f"{RESCORED[chosen]} routes: frontier area {areas[chosen]:.3f}{beside}"
