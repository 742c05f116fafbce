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
from r2v_dist.pipeline.steps.router import held_as_r2v, learner_stage, load_trained
from r2v_dist.router.model import RouterModel
from r2v_dist.router.names import BY_SCORE, Score, made_by
from r2v_dist.storage.routers import publish_router


def score(context: Context) -> dict[str, Any]:
    """Play r2v by each score and publish it by the best; of equal ones by the first of `BY_SCORE`.
    Raises RuntimeFailure where no score tells the validation states apart."""
    stage = learner_stage(context.config)
    assert stage is not None
    r2v = load_trained(context, stage, "r2v")
    results, areas = _areas(context, r2v)
    best = max(areas, key=lambda estimate: areas[estimate])
    rest = [f"{estimate} {area:.3f}" for estimate, area in areas.items() if estimate != best]
    for estimate in BY_SCORE.values():
        if not r2v.can_score_by(estimate):
            rest.append(f"{estimate} not tried: no label says what the teacher would do")
        elif estimate not in areas:
            rest.append(f"{estimate} tells no validation states apart")
    others = f" ({', '.join(rest)})" if rest else ""
    Progress(context.stage).close(f"{best} routes: frontier area {areas[best]:.3f}{others}")
    routers = context.result(stage, "routers")
    return results | {
        "routers": routers | _published(context, stage, r2v, best),
        "score": best,
        "areas": areas,
    }


def _areas(context: Context, r2v: RouterModel) -> tuple[dict[str, Any], dict[Score, float]]:
    """What was played, and the frontier area on validation tasks by score."""
    from r2v_dist.evaluation.comparison import SeedArms
    from r2v_dist.evaluation.outcomes import arm_outcomes
    from r2v_dist.stats.frontier import frontier_auc

    candidates = {
        name: r2v.by(estimate) for name, estimate in BY_SCORE.items() if r2v.can_score_by(estimate)
    }
    arm = context.deploy(held_as_r2v(context, candidates))
    results, thresholds = play_validation(context, arm, tuple(candidates), clean=False)
    folder = context.run.rollouts(context.stage)
    if not any(thresholds.values()):
        raise RuntimeFailure(
            f"{folder}: no score tells the validation states apart; raise labels.states, or "
            "label more tasks"
        )
    config = context.config
    arms = SeedArms(context.training_seed, tuple(arm_outcomes(folder)), {}, config.slm_only_router)
    return results, {
        BY_SCORE[name]: frontier_auc(arms.curve(name), arms.ends)
        for name, levels in thresholds.items()
        if levels
    }


def _published(context: Context, stage: str, r2v: RouterModel, best: Score) -> dict[str, str]:
    """r2v and those of its ablations that were scored as it was, by the chosen score."""
    root = context.run.checkpoint("router", f"{context.stage}-{context.input_hash[:8]}")
    paths = {}
    for name in context.result(stage, "routers"):
        if name not in made_by("learner"):
            continue
        model = load_trained(context, stage, name)
        if (model.mode, model.score) == (r2v.mode, r2v.score):
            publish_router(model.by(best), root / name)
            paths[name] = str((root / name).relative_to(context.run.root))
    return paths
