"""Runs the stages in order. A complete stage whose inputs are unchanged is skipped, another
resumes.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from r2v_dist.config.run import RunConfig
from r2v_dist.errors import warn
from r2v_dist.object_storage import mirror
from r2v_dist.object_storage.object_store import set_deadline
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.stage import Stage
from r2v_dist.pipeline.stages import stages
from r2v_dist.seeding import short_hash
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.run_dir import Manifest, RunDir

if TYPE_CHECKING:
    from r2v_dist.pipeline.services import Services


def execute(config: RunConfig) -> RunDir:
    """Run every stage that is not complete, then write the report. Safe to kill at any moment and
    to call again.
    """
    from envs.registry import published
    from r2v_dist.pipeline.services import Services
    from r2v_dist.report.write import write_report

    folder = RunDir(config.run_dir.resolve())
    if mirror.of(folder.root):
        set_deadline(config.cluster.storage_deadline_s)
    with folder.lock(config.cluster.lease_s) as run, contextlib.ExitStack() as stack:
        if config.cluster.gpus == "auto" and run.began_on_gpus():
            config = config.with_gpus("require")  # whichever nodes are alive today
            warn(
                "cluster.gpus = auto: this run began on GPUs and continues on them; set none for "
                "CPUs"
            )
        run.write_config(config)
        services = Services(config, run, stack)

        def finish() -> None:
            _run_stages(config, run, services)
            names = [stage.name for stage in stages(config)]
            run.require_lease()  # only its holder may write the report
            write_report(run, config, names, published(config.env.kind))
            run.require_lease()

        run.repairing(finish)
    return folder


def _complete(
    stage: Stage,
    config: RunConfig,
    run: RunDir,
    services: "Services",
    manifests: Mapping[str, Manifest],
) -> Manifest:
    input_hash = hash_of_inputs(stage, config, run, manifests)
    manifest = run.manifest(stage.name)
    if manifest is None or manifest.input_hash != input_hash or not _still_whole(run, manifest):
        run.begin(stage.name, input_hash)
        for name in stage.needs:
            rollout_store.verify(run.rollouts(name), name, manifests[name].input_hash)
        rollout_store.verify(run.rollouts(stage.name), stage.name, input_hash)
        start_s = time.monotonic()
        results = stage.run(
            Context(config, run, services, stage.name, input_hash, manifests, stage.training_seed)
        )
        run.complete(stage.name, input_hash, time.monotonic() - start_s, results)
        manifest = run.manifest(stage.name)
        assert manifest is not None
    return manifest


def hash_of_inputs(
    stage: Stage, config: RunConfig, run: RunDir, manifests: Mapping[str, Manifest]
) -> str:
    """What names the stage's inputs. A stage that an earlier version began keeps its name."""
    upstream = [(name, manifests[name].input_hash, manifests[name].results) for name in stage.needs]
    earlier_hash = run.begun(stage.name)
    hashes = []
    for parts in (stage.content(config), stage.content_before(config)):
        content = json.dumps([_plain(parts), upstream], sort_keys=True)
        hashes.append(short_hash(config.seed + stage.training_seed, content))
    return earlier_hash if earlier_hash in hashes else hashes[0]


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _run_stages(config: RunConfig, run: RunDir, services: "Services") -> None:
    manifests: dict[str, Manifest] = {}
    for stage in stages(config):
        if stage.name == "tasks" and run.manifest("evaluate") is None:
            services.start_early()
        manifests[stage.name] = _complete(stage, config, run, services, manifests)


def _still_whole(run: RunDir, manifest: Manifest) -> bool:
    """Whether a complete stage still has what it was complete with. A damaged file is set aside."""
    damage = run.lost(manifest)
    if damage is not None:
        if not run.set_aside(damage):
            warn(f"{damage.path} {damage.problem}: what stage {manifest.stage} lost is made again")
        elif run.lost(manifest) is None:  # fetched again
            return _still_whole(run, manifest)
        return False
    total = manifest.results.get("episodes") if manifest.covers is None else None
    count = len(rollout_store.committed_keys(run.rollouts(manifest.stage))) if total else 0
    if total and count != total:
        folder = run.rollouts(manifest.stage)
        warn(
            f"{folder} has {count} episodes of {total}: stage {manifest.stage} plays the others "
            f"again"
        )
    return not total or count == total
