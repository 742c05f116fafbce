"""`r2v run`: a configuration, from where its run directory stands to the report."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from r2v_dist.cli.any_config import ConfigFile, Overrides
from r2v_dist.errors import UsageError

if TYPE_CHECKING:
    from r2v_dist.config.run import RunConfig
    from r2v_dist.config.simulated import SimulatedConfig


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="print the resolved configuration and the resources, then stop"
        ),
    ] = False,
) -> None:
    """Run a configuration, or continue its run."""
    from r2v_dist.config.run import load_config
    from r2v_dist.config.simulated import load_simulated

    simulated = load_simulated(config, overrides or [])
    if simulated is not None:
        _run_simulated(simulated, dry_run)
    else:
        _run(load_config(config, overrides or []), dry_run)


def _run(config: "RunConfig", dry_run: bool) -> None:
    from r2v_dist.pipeline.memory_plan import memory_plan
    from r2v_dist.pipeline.preflight import check, check_environment, check_operators, check_places
    from r2v_dist.pipeline.resource_plan import resource_plan
    from r2v_dist.pipeline.time_plan import time_plan

    check_environment(config)
    check_operators(config)
    if dry_run:
        import yaml

        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
        print(resource_plan(config))
        print(memory_plan(config))
        if hours := time_plan(config):
            print(hours)
        try:
            check_places(config)
        except UsageError as error:  # what is planned here may be for another machine
            print(f"# REFUSED HERE: {error}")
        return
    check(config)
    from r2v_dist.pipeline.run import execute
    from r2v_dist.report.write import show_headline

    print(show_headline(execute(config)))


def _run_simulated(config: "SimulatedConfig", dry_run: bool) -> None:
    from r2v_dist.pipeline.preflight import check_simulated
    from r2v_dist.pipeline.resource_plan import simulated_plan
    from r2v_dist.storage.run_dir import RunDir

    if dry_run:
        print(simulated_plan(config))
        return
    check_simulated(config)
    from cluster.session import ray_session
    from r2v_dist.pipeline.simulated.run import render, simulate

    session = (
        ray_session(config.cluster, config.run_dir / "logs") if config.needs_ray else nullcontext()
    )
    with RunDir(config.run_dir).lock(config.cluster.lease_s) as run, session:
        report = run.repairing(lambda: simulate(config))
    print(render(report))
    print(f"Report: {config.run_dir / 'report' / 'index.html'}")
