"""`r2v submit`: a run as a job of a Ray cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from r2v_dist.cli.any_config import ConfigFile, Overrides, load_any
from r2v_dist.cli.cluster_options import LOCAL, SECONDS, Address, Timeout, jobs_of
from r2v_dist.cli.typed_path import read_as
from r2v_dist.errors import UsageError

WorkingDir = Annotated[
    Path,
    typer.Option(help="folder that travels with the job", callback=read_as("--working-dir")),
]
Excludes = Annotated[
    list[str] | None,
    typer.Option(help="path or pattern in that folder that stays here; may be repeated"),
]
DriverCpus = Annotated[
    float, typer.Option(min=0, max=1e6, help="cores of the driver; with any, it may leave the head")
]
DriverMemory = Annotated[float, typer.Option(min=0, max=1e6, help="GiB of memory of the driver")]
DriverLabels = Annotated[
    list[str] | None,
    typer.Option(help="label of the driver's node, NAME=VALUE; may be repeated"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="print the id and what would travel, then stop")
]


def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    address: Address = LOCAL,
    working_dir: WorkingDir = Path(),
    exclude: Excludes = None,
    driver_cpus: DriverCpus = 0,
    driver_memory_gib: DriverMemory = 0,
    driver_label: DriverLabels = None,
    dry_run: DryRun = False,
    timeout: Timeout = SECONDS,
) -> None:
    """Start a run on a cluster, or say that it is under way there; print the job's id."""
    from cluster.jobs import Driver
    from cluster.package import models_of, pack
    from cluster.submission import config_text, job_id, require_submittable
    from r2v_dist.object_storage.mirror import shown

    run = load_any(config, overrides)
    require_submittable(run)
    driver = Driver(driver_cpus, driver_memory_gib, _labels(driver_label or []))
    folder = _folder(working_dir)
    package = pack(folder, config_text(run), models_of(run, folder), exclude or [])
    if dry_run:
        print(*package.files, sep="\n")
        print(f"# {job_id(run)}: {len(package.files)} files, {len(package.data) / 1e6:.2f} MB")
        return
    job = jobs_of(address, timeout).submit(job_id(run), run.run_dir, package, driver)
    if not job.started:
        print(f"r2v: {job.id} is under way already", file=sys.stderr)
    elif job.attempt > 1:
        print(f"r2v: attempt {job.attempt} resumes in {shown(run.run_dir)}", file=sys.stderr)
    print(job.id)


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(f"--working-dir = {folder}: no such folder; correct the path")
    return folder.resolve()


def _labels(texts: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--driver-label = {text}: write NAME=VALUE")
        labels[name] = value
    return labels
