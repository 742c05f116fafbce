"""`r2v jobs`: what has been submitted to a cluster."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from r2v_dist.cli.cluster_options import LOCAL, SECONDS, Address, Timeout, jobs_of, moment


def jobs(
    address: Address = LOCAL,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
    timeout: Timeout = SECONDS,
) -> None:
    """List the jobs that were submitted to a cluster, the newest last."""
    submissions = jobs_of(address, timeout).listed()
    if as_json:
        print(json.dumps([asdict(job) for job in submissions], indent=1))
        return
    width = max((len(job.id) for job in submissions), default=2)
    print(f"{'id':<{width}}  {'status':<9}  {'started':<19}  {'ended':<19}  run_dir")
    for job in submissions:
        times = f"{moment(job.started):<19}  {moment(job.ended):<19}"
        print(f"{job.id:<{width}}  {job.status:<9}  {times}  {job.run_dir}")
