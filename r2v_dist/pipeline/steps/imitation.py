"""The stages that clone: teacher episodes, the SLM before and after cloning."""

from typing import TYPE_CHECKING, Any

from r2v_dist.episodes import Arm
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.steps.evaluation import test_seeds
from r2v_dist.storage.model_identity import checkpoint_version

if TYPE_CHECKING:
    from r2v_dist.storage.checkpoints import Checkpoint


def collect(context: Context) -> dict[str, Any]:
    """Play the teacher on training tasks, clean and perturbed."""
    config = context.config
    arm = Arm(
        "teacher_only", None, "none", context.services.teacher_version(), context.training_seed
    )
    pool = config.perturb.seeds("train", config.seed)
    units = []
    for index, task in enumerate(context.training_tasks("clone")):
        zs: list[int | None] = [None] * config.collect.clean_episodes
        # Consecutive tasks take consecutive seeds, so that all training seeds are met equally
        # often.
        zs += [
            pool[(index * config.collect.perturbed_episodes + i) % len(pool)]
            for i in range(config.collect.perturbed_episodes)
        ]
        units += [context.unit(task, z, (arm,)) for z in dict.fromkeys(zs)]
    return context.roll_out(units)


def baseline(context: Context) -> dict[str, Any]:
    """Play the SLM before training on validation tasks."""
    return _roll_out_slm(context, context.services.base_checkpoint())


def bc(context: Context) -> dict[str, Any]:
    """Clone the teacher's successful episodes."""
    from learners.behaviour_cloning.train import BCJob, clone_behaviour

    config = context.config
    run = context.run
    assert config.bc is not None
    output = run.checkpoint("slm", f"bc-{context.input_hash[:8]}")
    if not output.is_dir():
        job = BCJob(
            rollouts=context.rollouts("collect"),
            model=context.services.base_checkpoint().path,
            system_prompt=config.slm.system_prompt,
            output=output,
            stage=run.stage(context.stage),
            seed=context.seed,
            fence=context.fence,
            config=config.bc,
            template_settings=config.slm.chat_template_kwargs,
            report_to=config.cluster.report_to,
        )
        with context.services.learner_progress(
            context.stage, run.stage(context.stage) / "metrics.jsonl", job.config.deepspeed.ranks
        ):
            clone_behaviour(job)
    return {
        "checkpoint": str(output.relative_to(run.root)),
        "version": checkpoint_version("bc", output),
    }


def cloned(context: Context) -> dict[str, Any]:
    """The SLM as it was before DPO, on the test tasks: alone, and with the verifier's choice."""
    arm = context.deploy(policy=context.checkpoint("bc"))
    arms = (arm("slm_only"), arm("best_of_k"))
    zs = test_seeds(context)
    return context.roll_out(
        [context.unit(task, z, arms) for task in context.tasks("test") for z in zs]
    )


def _roll_out_slm(context: Context, checkpoint: "Checkpoint") -> dict[str, Any]:
    """SLM-only on the validation tasks, clean and under every validation seed."""
    config = context.config
    context.services.load_slm(checkpoint)
    arm = Arm(
        "slm_only",
        None,
        checkpoint.version,
        context.services.teacher_version(),
        context.training_seed,
    )
    zs = [None, *config.perturb.seeds("validation", config.seed)]
    return context.roll_out(
        [context.unit(task, z, (arm,)) for task in context.tasks("validation") for z in zs]
    )
