"""The stages that play (docs/method.md, section 8).

validate   tasks, router      -> rollouts/validate   every router, live, on validation tasks;
                                                     thresholds are chosen here
calibrate  tasks, validate    -> rollouts/calibrate  the router on calibration tasks, which
                                                     touch nothing else
evaluate   tasks, validate    -> rollouts/evaluate   every router at every threshold, live, on
                                                     test tasks
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from r2v_dist.episodes import Arm
from r2v_dist.evaluation.threshold_selection import grid
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.steps.router import last_round, trained
from r2v_dist.router.names import DRAWN

NEVER = math.inf
"""The threshold of a router that only watches: its scores along the SLM's own path are what
thresholds are chosen from.
"""


ALWAYS = -1e9
"""No score is below it."""


def validate(context: Context) -> dict[str, Any]:
    """Sweep every router on the validation tasks and choose its threshold there."""
    from r2v_dist.evaluation.outcomes import arm_outcomes
    from r2v_dist.evaluation.threshold_selection import Tolerance, selected_thresholds

    config = context.config
    arm = context.deploy(trained(context, last_round(context.config)))
    results, thresholds = play_validation(context, arm, config.swept, clean=True)
    arms = arm_outcomes(context.run.rollouts(context.stage))
    threshold_by_router = selected_thresholds(arms, Tolerance.of(config, context.training_seed))
    return results | {"thresholds": thresholds, "selected": threshold_by_router}


def play_validation(
    context: Context, arm: Callable[..., Arm], names: tuple[str, ...], clean: bool
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Play the ends and every router at the thresholds that its scores along the SLM's own path
    come to; `clean`: the ends undisturbed too. Returns what was played, and the thresholds.
    """
    config = context.config
    tasks = context.tasks("validation")
    zs = config.perturb.seeds("validation", config.seed)
    ends = _ends(context, arm)
    watchers = tuple(arm(name, NEVER) for name in names if name not in DRAWN)
    units = [context.unit(task, None, ends) for task in tasks] if clean else []
    units += [context.unit(task, z, (*ends, *watchers)) for task in tasks for z in zs]
    context.roll_out(units)
    thresholds = grid(context.run.rollouts(context.stage), names, config.evaluate.rates)
    arms = sweep(arm, thresholds)
    results = context.roll_out([context.unit(task, z, arms) for task in tasks for z in zs])
    return results, thresholds


def calibrate(context: Context) -> dict[str, Any]:
    """Play the router on the calibration tasks, from always escalating to its cheapest
    threshold.
    """
    config = context.config
    arm = context.deploy(trained(context, last_round(context.config)))
    zs = config.perturb.seeds("calibration", config.seed)
    arms = [
        arm("r2v", threshold)
        for threshold in (ALWAYS, *context.result("validate", "thresholds")["r2v"])
    ]
    results = context.roll_out(
        [context.unit(task, z, tuple(arms)) for task in context.tasks("calibration") for z in zs]
    )
    return results | {"thresholds": [a.threshold for a in arms]}


def test_seeds(context: Context) -> list[int]:
    """The perturbation seeds of the test split."""
    return context.config.perturb.seeds("test", context.config.seed)


def evaluate(context: Context) -> dict[str, Any]:
    """Every router at every threshold, live, on test tasks and seeds."""
    arm = context.deploy(trained(context, last_round(context.config)))
    ends = _ends(context, arm)
    arms = sweep(arm, context.result("validate", "thresholds"))
    tasks = context.tasks("test")
    zs = test_seeds(context)
    units = [context.unit(task, None, ends) for task in tasks]
    units += [context.unit(task, z, (*ends, *arms)) for task in tasks for z in zs]
    return context.roll_out(units)


def sweep(arm: Callable[..., Arm], thresholds: Mapping[str, list[float]]) -> tuple[Arm, ...]:
    """The arms of a grid of thresholds."""
    return tuple(
        arm(name, threshold) for name, levels in thresholds.items() for threshold in levels
    )


def _ends(context: Context, arm: Callable[..., Arm]) -> tuple[Arm, ...]:
    """SLM-only, by one sample and as deployed, and teacher-only."""
    return tuple(
        arm(name)
        for name in dict.fromkeys(("slm_only", context.config.slm_only_router, "teacher_only"))
    )
