"""The run as a table of stages, in order. A complete stage with equal inputs is skipped.

What is trained, and what follows from it, is done once a training seed (`stage@1`, ... after the
first). A stage that publishes a model deploys it for all stages after it. The report is written
when the last stage is complete.
"""

from dataclasses import replace

from r2v_dist.config.run import RunConfig
from r2v_dist.pipeline.stage import Part, Stage, for_training_seed, other_routers
from r2v_dist.pipeline.steps import labels, regressions, router, score, served, verifier
from r2v_dist.pipeline.steps.evaluation import calibrate, evaluate, validate
from r2v_dist.pipeline.steps.imitation import baseline, bc, cloned, collect
from r2v_dist.pipeline.steps.preference import dpo, pairs
from r2v_dist.pipeline.steps.tasks import tasks


def _trains(config: RunConfig) -> bool:
    return config.slm.backend == "vllm" and config.bc is not None


def _verifies(config: RunConfig) -> bool:
    return _trains(config) and config.verifier is not None and config.verifier.kind == "trained"


def _prefers(config: RunConfig) -> bool:
    return _trains(config) and config.dpo is not None


def _routes(config: RunConfig) -> bool:
    return config.router is not None


def _routes_once(config: RunConfig) -> bool:
    return _routes(config) and config.labels.rounds == 1


def _routes_twice(config: RunConfig) -> bool:
    return _routes(config) and config.labels.rounds == 2


def _regresses(config: RunConfig) -> bool:
    return bool(other_routers(config))


def _chooses_score(config: RunConfig) -> bool:
    return config.chooses_score


def _learns_from_traffic(config: RunConfig) -> bool:
    return config.router is not None and config.router.served is not None


def _certifies(config: RunConfig) -> bool:
    tasks_of_split = config.env.splits.calibration or config.env.files.get("calibration")
    return "r2v" in config.swept and bool(tasks_of_split)


# What decides an outcome, shared by several stages.
_PLAY = ("perturb", "slm", "teacher", "verifier")
_LABELLED = ("labels.tasks", "labels.validation_tasks", "labels.met", "labels.random_rate")
_TRAINING = ("router", "labels.rounds", "constraint_statuses")
_SWEEP = (*_PLAY, "hysteresis", "evaluate.rates", "evaluate.routers", "evaluate.oracle_branches")
_CHOICE = ("alpha", "evaluate.epsilon", "evaluate.confidence", "evaluate.bootstrap")
_LABELS = ("tasks", "@policy", "visits")

# fmt: off
TABLE = (
    # -- played once: tasks, the teacher, the SLM before training
    Stage("tasks", (), ("env", "games", "sandbox"), tasks, each_training_seed=False),
    Stage("collect", ("tasks",), ("perturb", "teacher", "collect"), collect,
          when=_trains, each_training_seed=False),
    Stage("baseline", ("tasks",), ("perturb", "slm"), baseline,
          when=_trains, each_training_seed=False),
    # -- the SLM learns from the teacher, then from its own failures
    Stage("bc", ("collect", "baseline"), ("slm", "bc"), bc, "slm", _trains),
    Stage("states", ("tasks", "bc"), ("perturb", "slm", "branches"), verifier.states,
          when=_verifies),
    Stage("branches", ("tasks", "states", "bc"), ("teacher", "branches"), verifier.branches,
          when=_verifies),
    Stage("verifier", ("states", "branches", "bc"), ("verifier",), verifier.verifier,
          "verifier", _verifies),
    Stage("pairs", ("states", "branches", "verifier"), ("dpo",), pairs, when=_prefers),
    Stage("dpo", ("pairs", "bc"), ("dpo",), dpo, "slm", _prefers),
    Stage("cloned", ("tasks", "bc", "verifier"), ("perturb", "test_seeds", "slm"), cloned,
          when=_prefers),
    # -- states are labelled by counterfactual branches, and routers learn from the labels
    Stage("visits", ("tasks", "@policy"), (*_PLAY, *_LABELLED), labels.visits, when=_routes),
    Stage("labels", _LABELS, (*_PLAY, "labels.first_round"), labels.labels, when=_routes),
    Stage("router", ("visits", "labels"), (*_TRAINING, "learner_routers"), router.router,
          "router", _routes_once),
    Stage("router", ("visits", "labels"), _TRAINING, router.router, "router", _routes_twice),
    Stage("visits2", ("tasks", "@policy", "@router"), (*_PLAY, *_LABELLED, "labels.followed_rate"),
          labels.second_visits, when=_routes_twice),
    Stage("labels2", ("tasks", "@policy", "@router", "visits", "visits2"), (*_PLAY, "labels"),
          labels.second_labels, when=_routes_twice),
    Stage("router2", ("visits", "labels", "labels2"), (*_TRAINING, "learner_routers"),
          router.second_router, "router", _routes_twice),
    Stage("score", ("tasks", "@policy", "@router"), (*_PLAY, "hysteresis", "evaluate.rates"),
          score.score, "router", _chooses_score),
    Stage("regressions", ("labels", "@router"), ("other_routers",), regressions.regressions,
          "router", _regresses),
    Stage("served", ("@policy", "@router"), ("served_log", "router.hysteresis"), served.served,
          "router", _learns_from_traffic),
    # -- every router live: thresholds, certificate, test
    Stage("validate", ("tasks", "@policy", "@router"), (*_SWEEP, *_CHOICE), validate),
    Stage("calibrate", ("tasks", "@policy", "@router", "validate"),
          (*_PLAY, "hysteresis", "test_seeds"), calibrate, when=_certifies),
    Stage("evaluate", ("tasks", "@policy", "@router", "validate"), (*_SWEEP, "test_seeds"),
          evaluate),
)
# fmt: on


def stages(config: RunConfig) -> list[Stage]:
    """The stages that this configuration needs, in order, for every training seed."""
    rows = _resolved([stage for stage in TABLE if stage.when(config)])
    shared = [stage for stage in rows if not stage.each_training_seed]
    per_seed = [stage for stage in rows if stage.each_training_seed]
    for training_seed in range(config.training_seeds):
        shared += for_training_seed(per_seed, training_seed)
    return shared


def publisher(config: RunConfig, part: Part) -> str | None:
    """The stage whose model a run deploys: the last that publishes such a part."""
    names = [stage.name for stage in TABLE if stage.publishes == part and stage.when(config)]
    return names[-1] if names else None


def _resolved(rows: list[Stage]) -> list[Stage]:
    """The stages with the names of those that publish what they need: every part of the policy,
    and the latest routers.
    """
    policy: list[str] = []
    routers: list[str] = []
    resolved = []
    for stage in rows:
        needs: list[str] = []
        for name in stage.needs:
            if name == "@policy":
                needs += policy
            elif name == "@router":
                needs += routers
            else:
                needs.append(name)
        resolved.append(replace(stage, needs=tuple(needs)))
        if stage.publishes in ("slm", "verifier"):
            policy.append(stage.name)
        elif stage.publishes == "router":
            routers = [stage.name]
    return resolved
