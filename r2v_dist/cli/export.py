"""`r2v export`: the SLM that a run has trained, as a directory that any tool loads."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from r2v_dist.cli.run_folder import RunFolder
from r2v_dist.cli.typed_path import read_as
from r2v_dist.errors import UsageError


def export(
    run_dir: RunFolder,
    output: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="new directory for the model", callback=read_as("DIR")),
    ],
    training_seed: Annotated[
        int, typer.Option(min=0, help="which of the run's training seeds")
    ] = 0,
) -> None:
    """Write the SLM that a run deploys as a plain Hugging Face directory; an adapter is merged."""
    from learners.common.adapters import merge
    from r2v_dist import files
    from r2v_dist.object_storage.mirror import COMPLETE, shown
    from r2v_dist.pipeline.stages import publisher
    from r2v_dist.storage.checkpoints import on_this_node, published
    from r2v_dist.storage.run_dir import open_run, stage_name

    run, config = open_run(run_dir)
    stage = publisher(config, "slm")
    manifest = stage and run.manifest(stage_name(stage, training_seed))
    if not manifest:
        raise UsageError(f"{shown(run_dir)}: has no trained SLM of training seed {training_seed}")
    if output.exists():
        raise UsageError(f"{output}: exists; name a new directory")
    folder = on_this_node(run.root / manifest.results["checkpoint"])
    model = published(folder, manifest.results["version"])
    with files.scratch_beside(output) as scratch:
        if model.adapter:
            merge(Path(model.path), Path(model.adapter), scratch, config.slm.dtype)
        else:
            shutil.copytree(model.path, scratch, ignore=shutil.ignore_patterns(COMPLETE))
        files.publish(scratch, output)
    print(f"{model.version} is in {output}")
