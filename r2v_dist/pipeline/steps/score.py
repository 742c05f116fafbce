"""The stage that chooses what r2v compares with its threshold (`router.score: validated`).

    score  tasks, router  -> rollouts/score, checkpoints/router  r2v by the score of largest
                                                                 frontier area

Invariant: scores are compared live, on validation tasks and seeds alone, and are those of the same
networks. The stage hands on the learner's other routers as they are.
"""

from typing import Any

from r2v_dist.errors import RuntimeFailure
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.progress import Progress
from r2v_dist.pipeline.steps.evaluation import play_validation
from r2v_dist.pipeline.steps.router import BY_SCORE, held_as_r2v, learner_stage, load_trained
from r2v_dist.router.model import RouterModel, Score
from r2v_dist.router.names import made_by
from r2v_dist.storage.routers import publish_router


def score(context: Context) -> dict[str, Any]:
    """Play r2v by each score and publish it by the best; of equal ones by the first of `BY_SCORE`.
    Raises RuntimeFailure where no score tells the validation states apart."""
    trained = learner_stage(context.config)
    assert trained is not None
    ours = load_trained(context, trained, "r2v")
    played, areas = _areas(context, ours)
    best = max(areas, key=lambda one: areas[one])
    others = ", ".join(f"{one} {area:.3f}" for one, area in areas.items() if one != best)
    Progress(context.stage).close(
        f"{best} routes: frontier area {areas[best]:.3f}{f' ({others})' if others else ''}"
    )
    routers = context.result(trained, "routers")
    return played | {
        "routers": routers | _published(context, trained, ours, best),
        "score": best,
        "areas": areas,
    }


def _areas(context: Context, ours: RouterModel) -> tuple[dict[str, Any], dict[Score, float]]:
    """What was played, and the frontier area on validation tasks by score."""
    from r2v_dist.evaluation.comparison import SeedArms
    from r2v_dist.evaluation.outcomes import arm_outcomes
    from r2v_dist.stats.frontier import frontier_auc

    candidates = {name: ours.by(one) for name, one in BY_SCORE.items() if ours.can_score_by(one)}
    arm = context.deploy(held_as_r2v(context, candidates))
    played, thresholds = play_validation(context, arm, tuple(candidates), clean=False)
    folder = context.run.rollouts(context.stage)
    if not any(thresholds.values()):
        raise RuntimeFailure(
            f"{folder}: no score tells the validation states apart; raise labels.states, or "
            "label more tasks"
        )
    config = context.config
    arms = SeedArms(context.training_seed, tuple(arm_outcomes(folder)), {}, config.alone)
    return played, {
        BY_SCORE[name]: frontier_auc(arms.curve(name), arms.ends)
        for name, levels in thresholds.items()
        if levels
    }


def _published(context: Context, trained: str, ours: RouterModel, chosen: Score) -> dict[str, str]:
    """r2v and those of its ablations that were scored as it was, by the chosen score."""
    root = context.run.checkpoint("router", f"{context.stage}-{context.input_hash[:8]}")
    paths = {}
    for name in context.result(trained, "routers"):
        if name not in made_by("learner"):
            continue
        model = load_trained(context, trained, name)
        if (model.mode, model.score) == (ours.mode, ours.score):
            publish_router(model.by(chosen), root / name)
            paths[name] = str((root / name).relative_to(context.run.root))
    return paths
