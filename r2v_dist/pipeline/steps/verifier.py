"""The stages in which the SLM learns from its own failures (docs/method.md, sections 3 and 4).

    states    tasks, bc           -> rollouts/states    SLM-only, K candidates a step, under
                                                        training seeds
    branches  states              -> rollouts/branches  every candidate of the chosen states,
                                                        continued by single samples
    verifier  branches            -> checkpoints/verifier
    pairs     branches, verifier  -> stages/pairs       preference pairs, with an account of what
                                                        was dropped
    dpo       pairs, bc           -> checkpoints/slm/dpo

States of validation tasks calibrate and measure the verifier; no pair is made of them.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from r2v_dist.config.env import Split
from r2v_dist.episodes import Arm, Unit
from r2v_dist.errors import RuntimeFailure
from r2v_dist.labels import branch_values
from r2v_dist.labels import estimates as branching
from r2v_dist.labels.branches import candidate_branches
from r2v_dist.labels.states import State, choose, sample, states_of
from r2v_dist.pipeline.context import Context
from r2v_dist.pretrained.places import model_path
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.model_identity import checkpoint_version

LEARNING: Split = "train"
HELD_OUT: Split = "validation"
"""The splits whose states teach the verifier, and those that calibrate it."""


def states(context: Context) -> dict[str, Any]:
    """SLM-only on some training and validation tasks, under seeds of their own splits."""
    config = context.config
    policy = context.checkpoint("bc")
    context.services.load_slm(policy)
    arm = Arm(
        "slm_only", None, policy.version, context.services.teacher_version(), context.training_seed
    )
    units = []
    sizes: dict[Split, int] = {
        LEARNING: config.branches.tasks,
        HELD_OUT: config.branches.validation_tasks,
    }
    for split, count in sizes.items():
        zs = config.perturb.seeds(split, config.seed)[: config.branches.seeds]
        tasks = (
            context.training_tasks("branch") if split == LEARNING else context.tasks(split)[:count]
        )
        units += [context.unit(task, z, (arm,)) for task in tasks for z in zs]
    return context.roll_out(units)


def branches(context: Context) -> dict[str, Any]:
    """Branch values of the chosen states, by split."""
    config = context.config
    policy = context.checkpoint("bc")
    context.services.load_slm(policy)
    states_by_split = _chosen(context)
    arm = Arm(
        "slm_only", None, policy.version, context.services.teacher_version(), context.training_seed
    )
    tasks = {task.id: task for task in context.tasks(LEARNING, HELD_OUT)}
    units: dict[tuple[str, int], Unit] = {}
    for state in (*states_by_split[LEARNING], *states_by_split[HELD_OUT]):
        state_branches = candidate_branches(
            state, arm, config.branches.n, config.branches.n_agreed, config.branches.teacher
        )
        unit = units.get((state.task, state.z))
        units[state.task, state.z] = context.unit(
            tasks[state.task], state.z, branches=(*(unit.branches if unit else ()), *state_branches)
        )
    results = context.roll_out(list(units.values()))
    table = rollout_store.read(context.rollouts("branches"))
    drifted = 0
    for split in (LEARNING, HELD_OUT):
        rows, drifted = branching.branch_values(states_by_split[split], table)
        branch_values.save(values_path(context, split), branch_values.to_table(rows))
        results |= {f"{split}_states": len(states_by_split[split]), f"{split}_values": len(rows)}
    return results | {"drifted": drifted}


def verifier(context: Context) -> dict[str, Any]:
    """Learn V, and measure it on the validation states."""
    from learners.common.adapters import whole
    from learners.verifier.train import VerifierJob, learn_verifier

    config = context.config
    run = context.run
    assert config.verifier is not None
    branch_table = branch_values.load(values_path(context, LEARNING))
    branched_keys = set(branch_table["key"].to_pylist())
    outcome_states = sample(
        [s for s in visited_rows(context, LEARNING) if s.key not in branched_keys],
        config.branches.outcomes,
        context.seed,
    )
    values = run.stage(context.stage) / "values.arrow"
    branch_values.save(
        values,
        pa.concat_tables(
            [branch_table, branch_values.to_table(branching.outcome_values(outcome_states))]
        ),
    )
    output = run.checkpoint("verifier", f"v-{context.input_hash[:8]}")
    job = VerifierJob(
        values=values,
        validation=values_path(context, HELD_OUT),
        model=str(model_path(config.verifier.model, "verifier.model"))
        if config.verifier.model
        else whole(context.checkpoint("bc"), config.slm.dtype, context.fence),
        system_prompt=config.slm.system_prompt,
        output=output,
        stage=run.stage(context.stage),
        seed=context.seed,
        fence=context.fence,
        config=config.verifier.training,
        template_settings=config.slm.chat_template_kwargs,
        report_to=config.cluster.report_to,
    )
    score = context.services.scoring("verifier", job.config.deepspeed)
    with context.services.learner_progress(
        context.stage, run.stage(context.stage) / "metrics.jsonl", job.config.deepspeed.ranks
    ):
        metrics = learn_verifier(job, score)
    return {
        "checkpoint": str(output.relative_to(run.root)),
        "version": checkpoint_version("v", output),
        "validation": asdict(metrics),
    }


def values_path(context: Context, split: str) -> Path:
    """The branch values of a split."""
    return context.folder("branches") / f"{split}.arrow"


def visited_rows(context: Context, split: Split) -> list[State]:
    """The states of a split that the cloned SLM met alone."""
    rows = rollout_store.read(context.rollouts("states"))
    visited_states = states_of(rows, context.config.env.max_steps)
    return [state for state in visited_states if state.split == split]


def _chosen(context: Context) -> dict[Split, list[State]]:
    """The states to branch from, the same on every call."""
    config = context.config
    counts = {LEARNING: config.branches.states, HELD_OUT: config.branches.validation_states}
    states_by_split = {
        split: choose(visited_rows(context, split), count, context.seed)
        for split, count in counts.items()
    }
    if empty := next((split for split, members in states_by_split.items() if not members), None):
        raise RuntimeFailure(
            f"no state of the {empty} tasks to branch from: the SLM proposed nothing there"
        )
    return states_by_split
