"""The run as a list of stages, each `inputs -> outputs` in the run directory; a complete stage with equal inputs is skipped.

    tasks     env                              -> stages/tasks/tasks.json
    collect   tasks, teacher                   -> rollouts/collect        teacher episodes, clean and perturbed
    baseline  tasks, base model                -> rollouts/baseline       the SLM before training, on validation tasks
    bc        collect                          -> checkpoints/slm/bc
    ...       r2v_dist/pipeline/steps/        -> a verifier, and an SLM that learned from its own failures (where configured)
    ...       r2v_dist/pipeline/steps/labels  -> counterfactual labels of states (where a router is configured)
    ...       r2v_dist/pipeline/steps/router  -> routers, thresholds by validation, calibration episodes
    evaluate  tasks, policy, validate          -> rollouts/evaluate       every router, live, on test tasks and seeds
    report    everything above                 -> report/index.html

What is trained, and what follows from it, is done once a training seed (`stage@1`, ... after the first). This module and the CLI
are the composition root: everything heavy is imported where a stage needs it.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from r2v_dist.config.env import SPLITS
from r2v_dist.config.learners import CONSTRAINT_STATUSES
from r2v_dist.config.run import RunConfig
from r2v_dist.episodes import Arm
from r2v_dist.errors import warn
from r2v_dist.files import write_atomically
from r2v_dist.pipeline.context import Context, Stage, for_training_seed
from r2v_dist.pipeline.progress import Progress
from r2v_dist.pipeline.steps import labels as label_stages
from r2v_dist.pipeline.steps import router as router_stages
from r2v_dist.pipeline.steps import verifier as learning_stages
from r2v_dist.seeding import short_hash
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import Manifest, RunDir, checkpoint_version

if TYPE_CHECKING:
    from actors.vllm.server_handle import Checkpoint
    from r2v_dist.pipeline.services import Crew

PUBLISHING = ("bc", "verifier", "dpo", "router", "router2")
"""Stages whose models are deployed."""


def execute(config: RunConfig) -> RunDir:
    """Run every stage that is not complete, then write the report. Safe to kill at any moment and to call again."""
    from r2v_dist.pipeline.services import Crew
    from r2v_dist.report.summary import write_report

    run = RunDir(config.run_dir.resolve())
    with run.lock(), contextlib.ExitStack() as stack:
        run.write_config(config)
        crew = Crew(config, run, stack)

        def finish() -> None:
            _run_stages(config, run, crew)
            write_report(run, config)

        run.repairing(finish)
    return run


def _run_stages(config: RunConfig, run: RunDir, crew: "Crew") -> None:
    manifests: dict[str, Manifest] = {}
    for stage in stages(config):
        if stage.name == "tasks" and run.manifest("evaluate") is None:
            crew.start_early()
        manifests[stage.name] = _complete(stage, config, run, crew, manifests)


def stages(config: RunConfig) -> list[Stage]:
    """The stages that this configuration needs, in order."""
    trains = config.slm.backend == "vllm"
    shared = [Stage("tasks", (), _tasks_content, _tasks)]
    if trains:
        shared += [
            Stage("collect", ("tasks",), lambda c: [c.perturb, c.teacher.content(), c.collect], _collect),
            Stage("baseline", ("tasks",), lambda c: [c.perturb, c.slm.content()], _baseline),
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
    made = [Stage("bc", ("collect", "baseline"), lambda c: [c.slm.content(), c.bc], _bc)]
    if config.verifier is not None and config.verifier.kind == "trained":
        made += [
            Stage("states", ("tasks", "bc"), lambda c: [c.perturb, c.slm.content(), c.branches], learning_stages.states),
            Stage("branches", ("tasks", "states", "bc"), lambda c: [c.teacher.content(), c.branches], learning_stages.branches),
            Stage("verifier", ("states", "branches", "bc"), lambda c: [c.verifier and c.verifier.content()], learning_stages.verifier),
        ]
    if config.dpo is not None:
        made += [
            Stage("pairs", ("states", "branches", "verifier"), lambda c: [c.dpo], learning_stages.pairs),
            Stage("dpo", ("pairs", "bc"), lambda c: [c.dpo], learning_stages.dpo),
            Stage("cloned", ("tasks", "bc", "verifier"), lambda c: [c.perturb, _test_seeds(c), c.slm.content()], _cloned),
        ]
    return made


def _router_stages(config: RunConfig, policy: tuple[str, ...]) -> list[Stage]:
    """From the deployed SLM on: labels and routers where they are trained, then every router live."""

    def plays(c: RunConfig) -> list[Any]:
        return [c.perturb, c.slm.content(), c.teacher.content(), c.verifier and c.verifier.content()]

    def visits(c: RunConfig) -> list[Any]:
        return [*plays(c), c.labels.tasks, c.labels.validation_tasks, c.labels.seeds, c.labels.random_rate]

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
        return [*sweeps(c), c.alpha, c.evaluate.epsilon, c.evaluate.confidence, c.evaluate.bootstrap]

    made, models = list[Stage](), tuple[str, ...]()
    if config.router is not None:
        made += [
            Stage("visits", ("tasks", *policy), visits, label_stages.visits),
            Stage("labels", ("tasks", *policy, "visits"), labels, label_stages.labels),
            Stage("router", ("visits", "labels"), learns if config.labels.rounds == 1 else learns_first, router_stages.router),
        ]
        models = ("router",)
        if config.labels.rounds == 2:
            made += [
                Stage("visits2", ("tasks", *policy, "router"), follows, label_stages.second_visits),
                Stage("labels2", ("tasks", *policy, "router", "visits", "visits2"), both_rounds, label_stages.second_labels),
                Stage("router2", ("visits", "labels", "labels2"), learns, router_stages.second_router),
            ]
            models = ("router2",)
    made.append(Stage("validate", ("tasks", *policy, *models), chooses, router_stages.validate))
    if "r2v" in config.swept and (config.env.splits.calibration or config.env.files.get("calibration")):
        made.append(Stage("calibrate", ("tasks", *policy, *models, "validate"), calibrates, router_stages.calibrate))
    made.append(Stage("evaluate", ("tasks", *policy, *models, "validate"), tests, router_stages.evaluate))
    return made


def _test_seeds(config: RunConfig) -> list[int]:
    from envs.tasks import seeds

    return seeds(config.perturb, "test", config.seed)


def _complete(stage: Stage, config: RunConfig, run: RunDir, crew: "Crew", manifests: Mapping[str, Manifest]) -> Manifest:
    upstream = [(name, manifests[name].input_hash, manifests[name].results) for name in stage.needs]
    content = json.dumps([_plain(stage.content(config)), upstream], sort_keys=True)
    input_hash = short_hash(config.seed + stage.training_seed, content)
    manifest = run.manifest(stage.name)
    if manifest is None or manifest.input_hash != input_hash or not _still_whole(run, manifest):
        run.begin(stage.name, input_hash)
        for name in (*stage.needs, stage.name):
            rollout_store.verify(run.rollouts(name))
        started = time.monotonic()
        results = stage.run(Context(config, run, crew, stage.name, input_hash, manifests, stage.training_seed))
        run.complete(stage.name, input_hash, time.monotonic() - started, results)
        manifest = run.manifest(stage.name)
        assert manifest is not None
    return manifest


def _still_whole(run: RunDir, manifest: Manifest) -> bool:
    """Whether a complete stage still has what it was complete with. A damaged file is set aside."""
    lost = run.lost(manifest)
    if lost is not None:
        if not run.set_aside(lost):
            warn(f"{lost.path} {lost.problem}: what stage {manifest.stage} lost is made again")
        return False
    counted = manifest.results.get("episodes") if manifest.covers is None else None
    there = len(rollout_store.committed_keys(run.rollouts(manifest.stage))) if counted else 0
    if counted and there != counted:
        folder = run.rollouts(manifest.stage)
        warn(f"{folder} has {there} episodes of {counted}: stage {manifest.stage} plays the others again")
    return not counted or there == counted


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _tasks(context: Context) -> dict[str, Any]:
    from envs.tasks import make_tasks

    progress = Progress("tasks")
    config = context.config

    def show(done: int, total: int) -> None:
        progress.update(done, total, "games generated")

    tasks = make_tasks(config.env, config.seed, context.crew.cores(), show, config.sandbox)
    write_atomically(context.run.stage("tasks") / "tasks.json", json.dumps([asdict(task) for task in tasks], indent=1))
    counts = {split: sum(t.split == split for t in tasks) for split in SPLITS}
    progress.close(", ".join(f"{count} {split}" for split, count in counts.items() if count) + " tasks")
    return {"counts": counts, "ids": short_hash(*(t.id for t in tasks))}


def _collect(context: Context) -> dict[str, Any]:
    from envs.tasks import seeds

    config = context.config
    arm = Arm("teacher_only", None, "none", context.crew.teacher_version(), context.training_seed)
    pool = seeds(config.perturb, "train", config.seed)
    units = []
    for index, task in enumerate(context.training_tasks("clone")):
        zs: list[int | None] = [None] * config.collect.clean_episodes
        # Consecutive tasks take consecutive seeds, so that all training seeds are met equally often.
        zs += [pool[(index * config.collect.perturbed_episodes + i) % len(pool)] for i in range(config.collect.perturbed_episodes)]
        units += [context.unit(task, z, (arm,)) for z in dict.fromkeys(zs)]
    return context.roll_out(units)


def _baseline(context: Context) -> dict[str, Any]:
    return _roll_out_slm(context, context.crew.base_checkpoint())


def _bc(context: Context) -> dict[str, Any]:
    from learners.behaviour_cloning.train import BCJob, clone_behaviour

    config, run = context.config, context.run
    output = run.checkpoint("slm", f"bc-{context.input_hash[:8]}")
    if not output.is_dir():
        job = BCJob(
            rollouts=context.rollouts("collect"),
            model=context.crew.base_checkpoint().path,
            system_prompt=config.slm.system_prompt,
            output=output,
            stage=run.stage(context.stage),
            seed=context.seed,
            config=config.bc,
            template_settings=config.slm.chat_template_kwargs,
        )
        with context.crew.learner_progress(context.stage, run.stage(context.stage) / "metrics.jsonl", job.config.deepspeed.ranks):
            clone_behaviour(job)
    return {"checkpoint": str(output.relative_to(run.root)), "version": checkpoint_version("bc", output)}


def _cloned(context: Context) -> dict[str, Any]:
    """The SLM as it was before DPO, on the test tasks: alone, and with the verifier's choice."""
    arm = context.deploy(policy=context.checkpoint("bc"))
    arms = (arm("slm_only"), arm("best_of_k"))
    zs = router_stages.test_seeds(context)
    return context.roll_out([context.unit(task, z, arms) for task in context.tasks("test") for z in zs])


def _roll_out_slm(context: Context, checkpoint: "Checkpoint") -> dict[str, Any]:
    """SLM-only on the validation tasks, clean and under every validation seed."""
    from envs.tasks import seeds

    config = context.config
    context.crew.load_slm(checkpoint)
    arm = Arm("slm_only", None, checkpoint.version, context.crew.teacher_version(), context.training_seed)
    zs = [None, *seeds(config.perturb, "validation", config.seed)]
    return context.roll_out([context.unit(task, z, (arm,)) for task in context.tasks("validation") for z in zs])
