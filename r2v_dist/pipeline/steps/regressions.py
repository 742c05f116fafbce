"""The stage that makes the plainer routers, beside which r2v has to be worth its labels.

    regressions  labels, router  -> checkpoints/router  logistic baselines; r2v's networks with
                                                        another score

The regressions learn from the states of the SLM's own episodes alone, where no teacher acted. The
stage hands on the routers of the learner as they are, so that later stages find all in one place.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from r2v_dist.errors import RuntimeFailure
from r2v_dist.labels.table import LabelTable
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.stage import other_routers
from r2v_dist.pipeline.steps.router import last_of_learner, learner_stage, load_trained
from r2v_dist.router.features import FEATURE_NAMES, FEATURE_VERSION
from r2v_dist.router.logistic import Outcomes, train_logistic
from r2v_dist.router.model import RouterModel
from r2v_dist.router.names import BY_NAME, BY_SCORE, made_by
from r2v_dist.storage.routers import publish_router

THREE = ("first_token_entropy", "action_surprisal", "verifier_best")
"""What an unfitted baseline compares with a threshold, one at a time."""


def regressions(context: Context) -> dict[str, Any]:
    """Fit, rescore and publish what the run evaluates."""
    learner = learner_stage(context.config)
    assert learner is not None
    names = other_routers(context.config)
    root = context.run.checkpoint("router", f"{context.stage}-{context.input_hash[:8]}")
    r2v = load_trained(context, learner, "r2v")
    models = {name: r2v.by(BY_SCORE[name]) for name in names if name in BY_SCORE}
    regression_names = [name for name in names if name in made_by("regression")]
    if regression_names:
        train, validation = (
            LabelTable.load(context.folder("labels") / f"{split}.arrow")
            for split in ("train", "validation")
        )
        models |= {name: fit(name, train, validation, context.seed) for name in regression_names}
    for name, model in models.items():
        publish_router(model, root / name)
    paths = {name: str((root / name).relative_to(context.run.root)) for name in models}
    earlier = last_of_learner(context.config)
    assert earlier is not None
    return {"routers": context.result(earlier, "routers") | paths}


def fit(name: str, train: LabelTable, validation: LabelTable, seed: int) -> RouterModel:
    """A logistic baseline by its name. Raises RuntimeFailure where a table lacks its labels."""
    answers = BY_NAME[name].learns_from == "answers"
    for split, table in (("train", train), ("validation", validation)):
        if len(np.unique(table.task[teaches(table, answers)])) < 2:
            raise RuntimeFailure(
                f"router {name}: the labels of the {split} tasks have states of fewer than two "
                f"tasks to learn from; raise labels.tasks and labels.validation_tasks, or leave "
                f"it out of evaluate.routers"
            )
    uses = THREE if name == "logistic_three" else FEATURE_NAMES
    train_outcomes = outcomes(train, answers)
    validation_outcomes = outcomes(validation, answers)
    return train_logistic(
        train_outcomes, validation_outcomes, seed, FEATURE_NAMES, FEATURE_VERSION, uses
    )


def outcomes(labels: LabelTable, answers: bool) -> Outcomes:
    """The states of the SLM's own episodes: whether it failed from there, or with `answers` whether
    the teacher would have done something else. Every episode weighs the same.
    """
    states = labels.where(teaches(labels, answers))
    weight_N = 1.0 / np.bincount(states.episode)[states.episode]
    failure_N: npt.NDArray[np.float64] = states.dissent if answers else 1.0 - states.own_success
    return Outcomes(states.features_NF, failure_N, states.task, weight_N)


def teaches(labels: LabelTable, answers: bool) -> npt.NDArray[np.bool_]:
    """Whether a state is one of the SLM's own, and with `answers` the teacher was asked there."""
    is_own_N: npt.NDArray[np.bool_] = np.isfinite(labels.own_success)
    return is_own_N & np.isfinite(labels.dissent) if answers else is_own_N
