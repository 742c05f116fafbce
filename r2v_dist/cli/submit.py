"""`r2v submit`: a run as a job of a Ray cluster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2v_dist.cli.any_config import ConfigFile, Overrides, load_any
from r2v_dist.cli.cluster_options import LOCAL, SECONDS, Address, Timeout, jobs_of
from r2v_dist.errors import UsageError

if TYPE_CHECKING:
    from r2v_dist.config.run import RunConfig
    from r2v_dist.config.simulated import SimulatedConfig


def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    address: Address = LOCAL,
    working_dir: Annotated[
        Path, typer.Option(help="folder that travels with the job; default: this one")
    ] = Path(),
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="path or pattern in that folder that stays here; may be repeated"),
    ] = None,
    driver_cpus: Annotated[
        float, typer.Option(min=0, help="cores of the driver; with any, it may leave the head")
    ] = 0,
    driver_memory_gib: Annotated[
        float, typer.Option(min=0, help="memory of the driver, likewise")
    ] = 0,
    driver_label: Annotated[
        list[str] | None,
        typer.Option(help="label of the driver's node, NAME=VALUE; may be repeated"),
    ] = None,
    timeout: Timeout = SECONDS,
) -> None:
    """Start a run on a cluster, or say that it is under way there; print the job's id."""
    from cluster.package import models_of, pack
    from cluster.submission import Driver, job_id, require_shared_run_dir

    run = load_any(config, overrides)
    require_shared_run_dir(run.run_dir, "a submitted job")
    driver = Driver(driver_cpus, driver_memory_gib, _labels(driver_label or []))
    folder = _folder(working_dir)
    package = pack(folder, _on_the_cluster(run), models_of(run, folder), exclude or [])
    submitted = jobs_of(address, timeout).submit(job_id(run), run.run_dir, package, driver)
    if not submitted.started:
        print(f"r2v: {submitted.id} is under way already", file=sys.stderr)
    elif submitted.attempt > 1:
        print(f"r2v: attempt {submitted.attempt} resumes in {run.run_dir}", file=sys.stderr)
    print(submitted.id)


def _on_the_cluster(config: "RunConfig | SimulatedConfig") -> str:
    """The resolved configuration, to be run by a driver that joins the cluster it runs on."""
    import yaml

    if config.cluster.executor == "inline":
        raise UsageError(
            "cluster.executor = inline: a submitted job joins a cluster; set it to ray, or use "
            "`r2v run`"
        )
    content = config.model_dump(mode="json")
    content["cluster"]["address"] = "auto"
    return yaml.safe_dump(content, sort_keys=False)


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
