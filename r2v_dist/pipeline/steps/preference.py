"""The stages `pairs` and `dpo`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from r2v_dist.labels import branch_values
from r2v_dist.labels import estimates as branching
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.steps.verifier import LEARNING, values_path, visited_rows
from r2v_dist.storage.model_identity import checkpoint_version


def pairs(context: Context) -> dict[str, Any]:
    """Preference pairs of the training states, by the verifier's opinion and the branches that were
    run.
    """
    from learners.dpo import pairs as preference_pairs
    from learners.verifier.train import PublishedVerifier

    config = context.config
    checkpoint = context.checkpoint("verifier")
    assert config.dpo is not None
    table = branch_values.load(values_path(context, LEARNING))
    assert config.verifier is not None
    settings = config.slm.chat_template_kwargs
    w = config.dpo.verifier_branches
    verifier = PublishedVerifier(Path(checkpoint.path), config.slm.system_prompt, settings)
    score = context.services.scoring("verifier", config.verifier.training.deepspeed)
    opinion = score("scores of candidates", verifier, table)
    n = table["n"].to_numpy().astype(np.float64)
    scores = (branch_values.values(table) * n + w * opinion) / (n + w)
    visit_values = branching.outcome_values(visited_rows(context, LEARNING))
    preferences, counts = preference_pairs.build_pairs(
        table, config.dpo.min_gap, scores, checkpoint.version, visit_values
    )
    preference_pairs.save(_pairs_path(context), preferences)
    return asdict(counts)


def dpo(context: Context) -> dict[str, Any]:
    """Prefer the better candidate, and answer alike under two views of one state."""
    from learners.common.adapters import whole
    from learners.dpo.consistency import measure_consistency
    from learners.dpo.train import DPOJob, learn_preferences

    config = context.config
    run = context.run
    checkpoint = context.checkpoint("bc")
    assert config.dpo is not None
    output = run.checkpoint("slm", f"dpo-{context.input_hash[:8]}")
    job = DPOJob(
        pairs=_pairs_path(context),
        model=whole(checkpoint, config.slm.dtype, context.fence),
        start=checkpoint,
        system_prompt=config.slm.system_prompt,
        output=output,
        stage=run.stage(context.stage),
        seed=context.seed,
        fence=context.fence,
        config=config.dpo,
        template_settings=config.slm.chat_template_kwargs,
        report_to=config.cluster.report_to,
    )
    with context.services.learner_progress(
        context.stage, run.stage(context.stage) / "metrics.jsonl", job.config.deepspeed.ranks
    ):
        examples = learn_preferences(job)
    score = context.services.scoring("dpo", job.config.deepspeed)
    arguments = (job.pairs, job.system_prompt, job.config, job.template_settings, score)
    before = measure_consistency(job.model, *arguments)
    after = measure_consistency(str(output), *arguments)
    return {
        **{
            "checkpoint": str(output.relative_to(run.root)),
            "version": checkpoint_version("dpo", output),
        },
        **asdict(examples),
        **{"consistency_before": before.divergence if before.pairs else None, "views": after.pairs},
        **{"consistency_after": after.divergence if after.pairs else None},
    }


def _pairs_path(context: Context) -> Path:
    return context.folder("pairs") / "pairs.arrow"
