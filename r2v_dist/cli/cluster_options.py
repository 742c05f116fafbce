"""What the commands that speak to a cluster have in common."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cluster.jobs import Jobs

Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS",
        help="address of the cluster's dashboard, http://HEAD:8265",
    ),
]
LOCAL = "http://127.0.0.1:8265"
Timeout = Annotated[
    float, typer.Option(min=0.1, max=1e6, help="seconds that the cluster has for an answer")
]
SECONDS = 30.0
JobId = Annotated[str, typer.Argument(metavar="ID", help="id of a job; `r2v jobs` lists them")]


def jobs_of(address: str, timeout_s: float) -> "Jobs":
    """The jobs of the cluster at the address."""
    from cluster.jobs import Jobs

    return Jobs(address, timeout_s)


def moment(seconds: float | None) -> str:
    """A time of the day as a person reads it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"
