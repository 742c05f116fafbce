"""The stages that train the router (docs/method.md, section 7).

    router     labels           -> checkpoints/router  the router; where no second round follows
                                                       also what router2 trains
    router2    labels, labels2                         the router, its ablations and the query-level
                                                       classifier

States of validation tasks stop and calibrate the training; nothing is trained on them.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from r2v_dist.config.env import Split
from r2v_dist.config.router import RouterConfig
from r2v_dist.config.run import RunConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.labels.table import LabelTable
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.stage import other_routers
from r2v_dist.router.model import RouterModel
from r2v_dist.router.names import made_by
from r2v_dist.router.query_classifier import QUERY, outcomes_of_queries, train_query_router
from r2v_dist.router.registry import RouterModels
from r2v_dist.router.switching import Hysteresis
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.routers import load_router, publish_router

if TYPE_CHECKING:
    from learners.router.train import RouterJob

SPLITS: tuple[Split, Split] = ("train", "validation")


def router(context: Context) -> dict[str, Any]:
    """Train on the first round's labels."""
    return _train(
        context, ("labels",), ("r2v",) if context.config.labels.rounds == 2 else _variants(context)
    )


def second_router(context: Context) -> dict[str, Any]:
    """Train on both rounds' labels."""
    return _train(context, ("labels", "labels2"), _variants(context))


def trained(context: Context, stage: str | None) -> RouterModels:
    """The routers that a stage published, as they are evaluated; none without a stage."""
    return replace(as_learned(context, stage), hysteresis=hysteresis_of(context.config))


def as_learned(context: Context, stage: str | None) -> RouterModels:
    """The same without hysteresis, which no learning may depend on."""
    names = context.result(stage, "routers") if stage is not None else ()
    models = {
        (name, context.training_seed): load_trained(context, stage, name)
        for name in names
        if stage is not None
    }
    return RouterModels(models, oracle_branches=context.config.evaluate.oracle_branches)


def held_as_r2v(context: Context, models: Mapping[str, RouterModel]) -> RouterModels:
    """Models under names of their own, each with the hysteresis of r2v."""
    hysteresis = hysteresis_of(context.config).get("r2v")
    return RouterModels(
        {(name, context.training_seed): model for name, model in models.items()},
        hysteresis=dict.fromkeys(models, hysteresis) if hysteresis else {},
    )


def hysteresis_of(config: RunConfig) -> dict[str, Hysteresis]:
    """How often r2v may change who acts, by its name; empty where it may at every step."""
    settings = config.router and config.router.hysteresis
    if not settings:
        return {}
    return {"r2v": Hysteresis(**settings.model_dump())}


def load_trained(context: Context, stage: str, name: str) -> RouterModel:
    """A router that an earlier stage published."""
    return load_router(context.run, name, context.result(stage, "routers")[name])


def last_round(config: RunConfig) -> str | None:
    """The stage whose routers are deployed, None where no router is trained."""
    if config.router is not None and config.router.served is not None:
        return "served"
    return last_on_labels(config)


def last_on_labels(config: RunConfig) -> str | None:
    """The last stage whose routers learn from labels, None where there is none."""
    return "regressions" if other_routers(config) else last_of_learner(config)


def last_of_learner(config: RunConfig) -> str | None:
    """The stage from which the learner's routers are handed on."""
    return "score" if config.chooses_score else learner_stage(config)


def learner_stage(config: RunConfig) -> str | None:
    """The last stage that trains with the router learner, None where no router is trained."""
    if config.router is None:
        return None
    return "router2" if config.labels.rounds == 2 else "router"


def _variants(context: Context) -> tuple[str, ...]:
    """The router comes first: the certificate needs it even where its arms are not evaluated."""
    learned_names = {*made_by("learner", "query")} - {"r2v"}
    return (
        "r2v",
        *(name for name in context.config.swept if name in learned_names),
    )


def _train(context: Context, stages: tuple[str, ...], variants: tuple[str, ...]) -> dict[str, Any]:
    from learners.router.train import train_routers

    config = context.config
    run = context.run
    assert config.router is not None
    folder = run.stage(context.stage)
    for split in SPLITS:
        tables = [LabelTable.load(context.folder(stage) / f"{split}.arrow") for stage in stages]
        labels = tables[0]
        for table in tables[1:]:
            labels = labels.plus(table)
        if (
            split == "train"
            and len(stages) > 1
            and config.router.score == "advantage"
            and not labels.with_disagreement.any()
        ):
            raise RuntimeFailure(
                f"stage {context.stage}: no pair of branches from a state where the teacher does "
                f"something else; raise labels.pairs, "
                "or set router.score = disagreement, which needs none"
            )
        labels.save(folder / f"{split}.arrow")
    root = run.checkpoint("router", f"{context.stage}-{context.input_hash[:8]}")
    jobs = {
        name: _job(context, config.router, folder, root, name) for name in variants if name != QUERY
    }
    with context.services.learner_progress(context.stage, folder / "metrics.jsonl", ranks=0):
        trained_routers = train_routers(list(jobs.values()), here=context.services.inline)
    results = dict(zip(jobs, trained_routers, strict=True))
    paths = {name: str(job.output.relative_to(run.root)) for name, job in jobs.items()}
    if QUERY in variants:
        paths[QUERY] = str((root / QUERY).relative_to(run.root))
        publish_router(_query_router(context), root / QUERY)
    return {
        "routers": paths,
        "training": {
            name: asdict(result) | {"output": paths[name]} for name, result in results.items()
        },
    }


def _job(
    context: Context, config: RouterConfig, folder: Path, root: Path, name: str
) -> "RouterJob":
    from learners.router.train import RouterJob, variant_of

    train, validation = (folder / f"{split}.arrow" for split in SPLITS)
    return RouterJob(
        train=train,
        validation=validation,
        output=root / name,
        stage=folder,
        seed=context.seed,
        fence=context.fence,
        config=variant_of(config, name),
    )


def _query_router(context: Context) -> RouterModel:
    columns = ["key", "t", "z", "router", "goal", "observation", "success", "task", "split"]
    table = rollout_store.read(context.rollouts("visits"), columns)
    table = table.take(
        np.argsort(np.array(table["key"].to_pylist()), kind="stable")
    )  # not in the order of commits
    split = np.array(table["split"].to_pylist())
    train, validation = (
        outcomes_of_queries(table.filter(pa.array(split == name)), context.config.slm_only_router)
        for name in SPLITS
    )
    return train_query_router(train, validation, context.seed)
