"""The run as a list of stages, each `inputs -> outputs` in the run directory; a complete stage with equal inputs is skipped.

    tasks     env                              -> stages/tasks/tasks.json
    collect   tasks, teacher                   -> rollouts/collect        teacher episodes, clean and perturbed
    baseline  tasks, base model                -> rollouts/baseline       the SLM before training, on validation tasks
    bc        collect                          -> checkpoints/slm/bc
    ...       r2v_dist.learning_stages         -> a verifier, and an SLM that learned from its own failures (where configured)
    validate  tasks, bc                        -> rollouts/validate       SLM-only on validation tasks; thresholds
    evaluate  tasks, bc, validate              -> rollouts/evaluate       every router, live, on test tasks and seeds
    report    everything above                 -> report/index.html

This module and the CLI are the composition root: everything heavy is imported where a stage needs it.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from r2v_dist import learning_stages
from r2v_dist.config import RunConfig
from r2v_dist.episodes import Arm
from r2v_dist.progress import Progress
from r2v_dist.run_dir import Manifest, RunDir, checkpoint_version, write_atomically
from r2v_dist.seeding import short_hash
from r2v_dist.stages import Context, Stage

if TYPE_CHECKING:
    from actors.servers import Checkpoint
    from r2v_dist.crew import Crew


PUBLISHING = ("bc", "verifier", "dpo")
"""Stages whose models are deployed."""


def execute(config: RunConfig) -> RunDir:
    """Run every stage that is not complete, then write the report. Safe to kill at any moment and to call again."""
    from r2v_dist.crew import Crew
    from r2v_dist.report import write_report

    run = RunDir(config.run_dir.resolve())
    with run.lock(), contextlib.ExitStack() as stack:
        run.write_config(config)
        crew = Crew(config, run, stack)
        manifests: dict[str, Manifest] = {}
        for stage in stages(config):
            if stage.name == "tasks" and run.manifest("evaluate") is None:
                crew.start_early()
            manifests[stage.name] = _complete(stage, config, run, crew, manifests)
        write_report(run, config)
    return run


def stages(config: RunConfig) -> list[Stage]:
    """The stages that this configuration needs, in order."""
    trains = config.slm.backend == "vllm"
    learning = [
        Stage("collect", ("tasks",), lambda c: [c.perturb, c.teacher.content(), c.collect], _collect),
        Stage("baseline", ("tasks",), lambda c: [c.perturb, c.slm.content()], _baseline),
        Stage("bc", ("collect", "baseline"), lambda c: [c.slm.content(), c.bc], _bc),
    ]
    if config.verifier is not None and config.verifier.kind == "trained":
        learning += [
            Stage("states", ("tasks", "bc"), lambda c: [c.perturb, c.slm.content(), c.branches], learning_stages.states),
            Stage("branches", ("tasks", "states", "bc"), lambda c: [c.teacher.content(), c.branches], learning_stages.branches),
            Stage("verifier", ("branches", "bc"), lambda c: [c.verifier], learning_stages.verifier),
        ]
    if config.dpo is not None:
        learning += [
            Stage("pairs", ("branches", "verifier"), lambda c: [c.dpo], learning_stages.pairs),
            Stage("dpo", ("pairs", "bc"), lambda c: [c.dpo], learning_stages.dpo),
            Stage("cloned", ("tasks", "bc", "verifier"), lambda c: [c.perturb, c.slm.content()], _cloned),
        ]
    policy = tuple(stage.name for stage in learning if stage.name in PUBLISHING) if trains else ()
    return [
        Stage("tasks", (), lambda c: [c.env, c.sandbox], _tasks),
        *(learning if trains else []),
        Stage("validate", ("tasks", *policy), lambda c: [c.perturb, c.slm.content(), c.evaluate.entropy_rates], _validate),
        Stage(
            "evaluate", ("tasks", *policy, "validate"), lambda c: [c.slm.content(), c.teacher.content(), c.verifier, c.evaluate], _evaluate
        ),
    ]


def _complete(stage: Stage, config: RunConfig, run: RunDir, crew: "Crew", manifests: Mapping[str, Manifest]) -> Manifest:
    upstream = [(name, manifests[name].input_hash, manifests[name].results) for name in stage.needs]
    input_hash = short_hash(config.seed, json.dumps(_plain(stage.content(config)), sort_keys=True), json.dumps(upstream, sort_keys=True))
    manifest = run.manifest(stage.name)
    if manifest is None or manifest.input_hash != input_hash:
        run.begin(stage.name, input_hash)
        started = time.monotonic()
        results = stage.run(Context(config, run, crew, stage.name, input_hash, manifests))
        run.complete(stage.name, input_hash, time.monotonic() - started, results)
        manifest = run.manifest(stage.name)
        assert manifest is not None
    return manifest


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
    counts = {split: sum(t.split == split for t in tasks) for split in ("train", "validation", "calibration", "test")}
    progress.close(", ".join(f"{count} {split}" for split, count in counts.items() if count) + " tasks")
    return {"counts": counts, "ids": short_hash(*(t.id for t in tasks))}


def _collect(context: Context) -> dict[str, Any]:
    from envs.tasks import seeds

    config = context.config
    arm = Arm("teacher_only", None, "none", context.crew.teacher_version(), config.seed)
    pool = seeds(config.perturb, "train")
    units = []
    for index, task in enumerate(context.tasks("train")):
        zs: list[int | None] = [None] * config.collect.clean_episodes
        # Consecutive tasks take consecutive seeds, so that all training seeds are met equally often.
        zs += [pool[(index * config.collect.perturbed_episodes + i) % len(pool)] for i in range(config.collect.perturbed_episodes)]
        units += [context.unit(task, z, (arm,)) for z in dict.fromkeys(zs)]
    return context.roll_out(units)


def _baseline(context: Context) -> dict[str, Any]:
    return _roll_out_slm(context, context.crew.base_checkpoint())


def _bc(context: Context) -> dict[str, Any]:
    from learners.behaviour_cloning import BCJob, clone_behaviour

    config, run = context.config, context.run
    output = run.checkpoint("slm", f"bc-{context.input_hash[:8]}")
    if not output.is_dir():
        job = BCJob(
            rollouts=run.rollouts("collect"),
            model=context.crew.base_checkpoint().path,
            system_prompt=config.slm.system_prompt,
            output=output,
            stage=run.stage("bc"),
            seed=config.seed,
            config=config.bc,
        )
        with context.crew.learner_progress("bc", run.stage("bc") / "metrics.jsonl"):
            clone_behaviour(job)
    return {"checkpoint": str(output.relative_to(run.root)), "version": checkpoint_version("bc", output)}


def _validate(context: Context) -> dict[str, Any]:
    from r2v_dist.evaluation import entropy_thresholds

    results = _roll_out_slm(context, _policy(context))
    return results | {"entropy_thresholds": entropy_thresholds(context.run.rollouts("validate"), context.config.evaluate.entropy_rates)}


def _evaluate(context: Context) -> dict[str, Any]:
    from envs.tasks import seeds

    checkpoint, crew, evaluate = _policy(context), context.crew, context.config.evaluate
    crew.load_slm(checkpoint)

    ends = _ends(context, checkpoint)

    def arm(router: str, threshold: float) -> Arm:
        return replace(ends[0], router=router, threshold=threshold)

    swept = (
        *(arm("random", rate) for rate in evaluate.random_rates),
        *(arm("entropy", threshold) for threshold in dict.fromkeys(context.result("validate", "entropy_thresholds"))),
    )
    zs = seeds(context.config.perturb, "test")
    tasks = context.tasks("test")
    units = [context.unit(task, None, ends) for task in tasks]
    units += [context.unit(task, z, (*ends, *swept)) for task in tasks for z in zs]
    return context.roll_out(units)


def _cloned(context: Context) -> dict[str, Any]:
    """The SLM as it was before DPO, on the test tasks: alone, and with the verifier's choice."""
    from envs.tasks import seeds

    policy = context.checkpoint("bc")
    context.crew.load_slm(policy)
    arms = _ends(context, policy)[:-1]
    zs = seeds(context.config.perturb, "test")
    return context.roll_out([context.unit(task, z, arms) for task in context.tasks("test") for z in zs])


def _ends(context: Context, policy: "Checkpoint") -> tuple[Arm, ...]:
    """The SLM alone, the verifier's choice among its candidates where there is a verifier, and the teacher alone."""
    verifier = _verifier(context)
    version = verifier.version if verifier else ""
    names = ("slm_only", *(("best_of_k",) if verifier else ()), "teacher_only")
    return tuple(Arm(name, None, policy.version, context.crew.teacher_version(), context.config.seed, version) for name in names)


def _policy(context: Context) -> "Checkpoint":
    """The SLM that is deployed."""
    if context.config.slm.backend != "vllm":
        return context.crew.base_checkpoint()
    return context.checkpoint("dpo" if context.config.dpo is not None else "bc")


def _verifier(context: Context) -> "Checkpoint | None":
    """The verifier that is deployed; the runners have it from here on."""
    from actors.servers import Checkpoint

    config = context.config.verifier
    if config is None:
        return None
    verifier = context.checkpoint("verifier") if config.kind == "trained" else Checkpoint("", config.version)
    context.crew.equip(verifier)
    return verifier


def _roll_out_slm(context: Context, checkpoint: "Checkpoint") -> dict[str, Any]:
    """SLM-only on the validation tasks, clean and under every validation seed."""
    from envs.tasks import seeds

    context.crew.load_slm(checkpoint)
    arm = Arm("slm_only", None, checkpoint.version, context.crew.teacher_version(), context.config.seed)
    zs = [None, *seeds(context.config.perturb, "validation")]
    return context.roll_out([context.unit(task, z, (arm,)) for task in context.tasks("validation") for z in zs])
