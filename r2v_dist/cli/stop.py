"""`r2v stop`: the end of a submitted job."""

from typing import Annotated

import typer

from r2v_dist.cli.cluster_options import LOCAL, SECONDS, Address, JobId, Timeout, jobs_of


def stop(
    wanted: JobId,
    address: Address = LOCAL,
    wait: Annotated[float, typer.Option(min=1, help="seconds to wait for the job's end")] = 60.0,
    timeout: Timeout = SECONDS,
) -> None:
    """Stop a job; submitting it again resumes its run."""
    job = jobs_of(address, timeout).stop(wanted, wait)
    print(f"{job.id} {job.status}")
