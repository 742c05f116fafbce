"""`r2v logs`: what a submitted job prints."""

import sys
from typing import Annotated

import typer

from r2v_dist.cli.cluster_options import LOCAL, SECONDS, Address, JobId, Timeout, jobs_of
from r2v_dist.errors import RuntimeFailure


def logs(
    wanted: JobId,
    address: Address = LOCAL,
    follow: Annotated[
        bool, typer.Option("--follow", help="until the job has ended; fails where the job failed")
    ] = False,
    timeout: Timeout = SECONDS,
) -> None:
    """Show what a job has printed."""
    cluster = jobs_of(address, timeout)
    if not follow:
        _say(cluster.logs(wanted))
        return
    job = cluster.follow(wanted, _say)
    if job.status != "SUCCEEDED":
        raise RuntimeFailure(f"{wanted}: {job.status}: {job.message}")


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
