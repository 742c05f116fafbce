"""The run as a list of stages, each `inputs -> outputs` in the run directory; a complete stage with
equal inputs is skipped.

    tasks     env                              -> stages/tasks/tasks.json
    collect   tasks, teacher                   -> rollouts/collect        teacher episodes, clean and perturbed
    baseline  tasks, base model                -> rollouts/baseline       the SLM before training, on validation tasks
    bc        collect                          -> checkpoints/slm/bc
    ...       r2v_dist/pipeline/steps/        -> a verifier, and an SLM that learned from its own failures (where configured)
    ...       r2v_dist/pipeline/steps/labels  -> counterfactual labels of states (where a router is configured)
    ...       r2v_dist/pipeline/steps/router  -> routers, thresholds by validation, calibration episodes
    evaluate  tasks, policy, validate          -> rollouts/evaluate       every router, live, on test tasks and seeds
    report    everything above                 -> report/index.html

What is trained, and what follows from it, is done once a training seed (`stage@1`, ... after the
first). This module and the CLI are the composition root: everything heavy is imported where a stage
needs it.
"""

from typing import TYPE_CHECKING, Any

from r2v_dist.config.learners import CONSTRAINT_STATUSES
from r2v_dist.config.run import RunConfig
from r2v_dist.pipeline.stage import Stage, for_training_seed
from r2v_dist.pipeline.steps import labels as label_stages
from r2v_dist.pipeline.steps import router as router_stages
from r2v_dist.pipeline.steps import verifier as learning_stages
from r2v_dist.pipeline.steps.evaluation import calibrate, evaluate, validate
from r2v_dist.pipeline.steps.imitation import baseline, bc, cloned, collect
from r2v_dist.pipeline.steps.preference import dpo, pairs
from r2v_dist.pipeline.steps.tasks import tasks

if TYPE_CHECKING:
    pass

PUBLISHING = ("bc", "verifier", "dpo", "router", "router2")
"""Stages whose models are deployed."""


def stages(config: RunConfig) -> list[Stage]:
    """The stages that this configuration needs, in order."""
    trains = config.slm.backend == "vllm"
    shared = [Stage("tasks", (), _tasks_content, tasks)]
    if trains:
        shared += [
            Stage(
                "collect",
                ("tasks",),
                lambda c: [c.perturb, c.teacher.content(), c.collect],
                collect,
            ),
            Stage("baseline", ("tasks",), lambda c: [c.perturb, c.slm.content()], baseline),
        ]
    trained = _slm_stages(config) if trains else []
    policy = tuple(stage.name for stage in trained if stage.name in PUBLISHING)
    trained += _router_stages(config, policy)
    seeds = range(config.training_seeds)
    return [*shared, *(stage for seed in seeds for stage in for_training_seed(trained, seed))]


def _tasks_content(config: RunConfig) -> list[Any]:
    """What the tasks are, wherever games and data lie."""
    from envs.tasks import identity

    return [config.env.content(), identity(config.env), config.sandbox]


def _slm_stages(config: RunConfig) -> list[Stage]:
    made = [Stage("bc", ("collect", "baseline"), lambda c: [c.slm.content(), c.bc], bc)]
    if config.verifier is not None and config.verifier.kind == "trained":
        made += [
            Stage(
                "states",
                ("tasks", "bc"),
                lambda c: [c.perturb, c.slm.content(), c.branches],
                learning_stages.states,
            ),
            Stage(
                "branches",
                ("tasks", "states", "bc"),
                lambda c: [c.teacher.content(), c.branches],
                learning_stages.branches,
            ),
            Stage(
                "verifier",
                ("states", "branches", "bc"),
                lambda c: [c.verifier and c.verifier.content()],
                learning_stages.verifier,
            ),
        ]
    if config.dpo is not None:
        made += [
            Stage("pairs", ("states", "branches", "verifier"), lambda c: [c.dpo], pairs),
            Stage("dpo", ("pairs", "bc"), lambda c: [c.dpo], dpo),
            Stage(
                "cloned",
                ("tasks", "bc", "verifier"),
                lambda c: [c.perturb, _test_seeds(c), c.slm.content()],
                cloned,
            ),
        ]
    return made


def _router_stages(config: RunConfig, policy: tuple[str, ...]) -> list[Stage]:
    """From the deployed SLM on: labels and routers where they are trained, then every
    router live.
    """

    def plays(c: RunConfig) -> list[Any]:
        return [
            c.perturb,
            c.slm.content(),
            c.teacher.content(),
            c.verifier and c.verifier.content(),
        ]

    def visits(c: RunConfig) -> list[Any]:
        return [
            *plays(c),
            c.labels.tasks,
            c.labels.validation_tasks,
            c.labels.seeds,
            c.labels.random_rate,
        ]

    def labels(c: RunConfig) -> list[Any]:
        return [*plays(c), c.labels.first_round()]

    def follows(c: RunConfig) -> list[Any]:
        return [*visits(c), c.labels.followed_rate]

    def both_rounds(c: RunConfig) -> list[Any]:
        return [*plays(c), c.labels]

    def learns_first(c: RunConfig) -> list[Any]:
        return [c.router, c.labels.rounds, CONSTRAINT_STATUSES]

    def learns(c: RunConfig) -> list[Any]:
        return [*learns_first(c), c.evaluate.routers]

    def sweeps(c: RunConfig) -> list[Any]:
        return [*plays(c), c.evaluate.rates, c.evaluate.routers, c.evaluate.oracle_branches]

    def calibrates(c: RunConfig) -> list[Any]:
        return [*plays(c), _test_seeds(c)]

    def tests(c: RunConfig) -> list[Any]:
        return [*sweeps(c), _test_seeds(c)]

    def chooses(c: RunConfig) -> list[Any]:
        return [
            *sweeps(c),
            c.alpha,
            c.evaluate.epsilon,
            c.evaluate.confidence,
            c.evaluate.bootstrap,
        ]

    made, models = list[Stage](), tuple[str, ...]()
    if config.router is not None:
        made += [
            Stage("visits", ("tasks", *policy), visits, label_stages.visits),
            Stage("labels", ("tasks", *policy, "visits"), labels, label_stages.labels),
            Stage(
                "router",
                ("visits", "labels"),
                learns if config.labels.rounds == 1 else learns_first,
                router_stages.router,
            ),
        ]
        models = ("router",)
        if config.labels.rounds == 2:
            made += [
                Stage("visits2", ("tasks", *policy, "router"), follows, label_stages.second_visits),
                Stage(
                    "labels2",
                    ("tasks", *policy, "router", "visits", "visits2"),
                    both_rounds,
                    label_stages.second_labels,
                ),
                Stage(
                    "router2", ("visits", "labels", "labels2"), learns, router_stages.second_router
                ),
            ]
            models = ("router2",)
    made.append(Stage("validate", ("tasks", *policy, *models), chooses, validate))
    if "r2v" in config.swept and (
        config.env.splits.calibration or config.env.files.get("calibration")
    ):
        made.append(
            Stage("calibrate", ("tasks", *policy, *models, "validate"), calibrates, calibrate)
        )
    made.append(Stage("evaluate", ("tasks", *policy, *models, "validate"), tests, evaluate))
    return made


def _test_seeds(config: RunConfig) -> list[int]:
    from envs.tasks import seeds

    return seeds(config.perturb, "test", config.seed)
