"""The run as a list of stages, each `inputs -> outputs` in the run directory; a complete stage with equal inputs is skipped.

    tasks     env                              -> stages/tasks/tasks.json
    collect   tasks, teacher                   -> rollouts/collect        teacher episodes, clean and perturbed
    baseline  tasks, base model                -> rollouts/baseline       the SLM before training, on validation tasks
    bc        collect                          -> checkpoints/slm/bc
    validate  tasks, bc                        -> rollouts/validate       SLM-only on validation tasks; thresholds
    evaluate  tasks, bc, validate              -> rollouts/evaluate       every router, live, on test tasks and seeds
    report    everything above                 -> report/index.html

This module and the CLI are the composition root: everything heavy is imported where a stage needs it.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from r2v_dist.config import RunConfig
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.errors import UsageError
from r2v_dist.progress import Progress
from r2v_dist.run_dir import Manifest, RunDir, checkpoint_version, write_atomically
from r2v_dist.seeding import short_hash

if TYPE_CHECKING:
    from actors.rollout import Totals
    from actors.servers import Checkpoint
    from r2v_dist.crew import Crew


@dataclass(frozen=True)
class Context:
    """What a stage works with."""

    config: RunConfig
    run: RunDir
    crew: "Crew"
    stage: str
    input_hash: str
    manifests: Mapping[str, Manifest]

    def result(self, stage: str, name: str) -> Any:
        """A result of an earlier stage."""
        return self.manifests[stage].results[name]

    def tasks(self, *splits: str) -> list[Task]:
        """The tasks of some splits."""
        rows = json.loads((self.run.stage("tasks") / "tasks.json").read_text())
        return [Task(**{**row, "env_kwargs": tuple(map(tuple, row["env_kwargs"]))}) for row in rows if row["split"] in splits]


@dataclass(frozen=True)
class Stage:
    """`content` is the part of the configuration that decides the stage's outcome; `needs` are the stages it reads."""

    name: str
    needs: tuple[str, ...]
    content: Callable[[RunConfig], Any]
    run: Callable[[Context], dict[str, Any]]


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
    policy = ("bc",) if trains else ()
    return [
        Stage("tasks", (), lambda c: [c.env], _tasks),
        *(learning if trains else []),
        Stage("validate", ("tasks", *policy), lambda c: [c.perturb, c.slm.content(), c.evaluate.entropy_rates], _validate),
        Stage("evaluate", ("tasks", *policy, "validate"), lambda c: [c.slm.content(), c.teacher.content(), c.evaluate], _evaluate),
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
    tasks = make_tasks(
        context.config.env, context.config.seed, context.crew.cores(), lambda done, total: progress.update(done, total, "games generated")
    )
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
        units += [_unit(context, task, z, (arm,)) for z in dict.fromkeys(zs)]
    return _roll_out(context, units)


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
        with context.crew.learner_progress(run.stage("bc") / "metrics.jsonl"):
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

    def arm(router: str, threshold: float | None = None) -> Arm:
        return Arm(router, threshold, checkpoint.version, crew.teacher_version(), context.config.seed)

    ends = (arm("slm_only"), arm("teacher_only"))
    swept = (
        *(arm("random", rate) for rate in evaluate.random_rates),
        *(arm("entropy", threshold) for threshold in dict.fromkeys(context.result("validate", "entropy_thresholds"))),
    )
    zs = seeds(context.config.perturb, "test")
    tasks = context.tasks("test")
    units = [_unit(context, task, None, ends) for task in tasks]
    units += [_unit(context, task, z, (*ends, *swept)) for task in tasks for z in zs]
    return _roll_out(context, units)


def _policy(context: Context) -> "Checkpoint":
    from actors.servers import Checkpoint

    if context.config.slm.backend != "vllm":
        return context.crew.base_checkpoint()
    return Checkpoint(str((context.run.root / context.result("bc", "checkpoint")).resolve()), context.result("bc", "version"))


def _roll_out_slm(context: Context, checkpoint: "Checkpoint") -> dict[str, Any]:
    """SLM-only on the validation tasks, clean and under every validation seed."""
    from envs.tasks import seeds

    context.crew.load_slm(checkpoint)
    arm = Arm("slm_only", None, checkpoint.version, context.crew.teacher_version(), context.config.seed)
    zs = [None, *seeds(context.config.perturb, "validation")]
    return _roll_out(context, [_unit(context, task, z, (arm,)) for task in context.tasks("validation") for z in zs])


def _unit(context: Context, task: Task, z: int | None, arms: tuple[Arm, ...]) -> Unit:
    return Unit(context.stage, context.input_hash, task, z, 0, arms)


def _roll_out(context: Context, units: list[Unit]) -> dict[str, Any]:
    from r2v_dist.evaluation import success_summary

    if not units:
        raise UsageError(f"stage {context.stage} has no tasks: give env.splits or env.files the split it needs")
    progress = Progress(context.stage)

    def show(totals: "Totals", total: int) -> None:
        rate = totals.steps / max(1e-9, time.monotonic() - started)
        tokens = totals.sampled_tokens / max(1e-9, time.monotonic() - started)
        won = totals.successes / max(1, totals.episodes)
        progress.update(totals.units, total, f"{totals.episodes} episodes, {rate:.0f} steps/s, {tokens:.0f} tokens/s, success {won:.0%}")

    started = time.monotonic()
    totals = context.crew.roll_out(units, context.run.rollouts(context.stage), show)
    summary = success_summary(context.run.rollouts(context.stage))
    progress.close(
        f"{totals.episodes} episodes, {totals.steps} steps, {totals.engine_calls} of {totals.asked} model calls made; " + summary.text
    )
    context.crew.log_totals(context.stage, asdict(totals))
    return {"episodes": summary.episodes}
