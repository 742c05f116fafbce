"""`r2v manifests`: what other schedulers start a run from."""

from typing import Annotated, Literal

import typer

from r2v_dist.cli.any_config import ConfigFile, Overrides, load_any

commands = typer.Typer(help="Print what Kubernetes or Slurm starts a run from.")

_MOST = 2**31 - 1
"""The largest number in a field of Kubernetes, and more than Slurm takes."""
_MOST_HOURS = _MOST // 3600
Gpus = Annotated[
    int,
    typer.Option(min=0, max=_MOST, help="GPUs of a node with GPUs; 0: the cluster has none"),
]
Cpus = Annotated[int, typer.Option(min=1, max=_MOST, help="cores of a node")]

Image = Annotated[str, typer.Option(help="image of the project, see cluster/Containerfile")]
Claim = Annotated[
    str, typer.Option(help="PersistentVolumeClaim that holds a run_dir that is a path")
]
Kind = Annotated[
    Literal["job", "cluster"],
    typer.Option(help="a RayJob, or only the RayCluster for `r2v submit`"),
]
Memory = Annotated[int, typer.Option(min=1, max=_MOST, help="memory of a node with GPUs")]
Deadline = Annotated[
    float,
    typer.Option(min=0.1, max=_MOST_HOURS, help="longest time of the job, retries included"),
]
Retries = Annotated[
    int, typer.Option(min=0, max=_MOST, help="new clusters after a failure; each resumes the run")
]
Keep = Annotated[
    int, typer.Option(min=0, max=_MOST, help="how long a finished job can be looked at")
]


@commands.command()
def kuberay(
    config: ConfigFile,
    overrides: Overrides = None,
    image: Image = "r2v:latest",
    claim: Claim = "r2v-shared",
    kind: Kind = "job",
    gpus_per_node: Gpus = 8,
    cpus_per_node: Cpus = 16,
    memory_gib_per_node: Memory = 128,
    deadline_hours: Deadline = 72.0,
    retries: Retries = 3,
    keep_seconds: Keep = 3600,
) -> None:
    """Print a RayJob or a RayCluster for KubeRay's operator, as YAML."""
    from cluster.manifests.kuberay import Kubernetes, ray_cluster, ray_job
    from cluster.manifests.shape import Node
    from cluster.submission import require_submittable

    run = load_any(config, overrides)
    require_submittable(run)
    place = Kubernetes(
        image=image,
        claim=claim,
        node=Node(cpus_per_node, gpus_per_node, memory_gib_per_node),
        deadline_s=round(deadline_hours * 3600),
        retries=retries,
        keep_s=keep_seconds,
    )
    print((ray_job if kind == "job" else ray_cluster)(run, place), end="")


@commands.command()
def slurm(
    config: ConfigFile,
    overrides: Overrides = None,
    gpus_per_node: Gpus = 8,
    cpus_per_node: Cpus = 16,
    hours: Annotated[
        float, typer.Option(min=0.02, max=_MOST_HOURS, help="time limit of an attempt")
    ] = 24.0,
    notice_seconds: Annotated[
        int,
        typer.Option(
            min=1, max=_MOST, help="how long before the time limit the run is told to end"
        ),
    ] = 120,
    restarts: Annotated[
        int,
        typer.Option(
            min=0, max=_MOST, help="most attempts after the first that meet the time limit"
        ),
    ] = 10,
    option: Annotated[
        list[str] | None,
        typer.Option(help="further option of sbatch, --option=--partition=gpu; may be repeated"),
    ] = None,
) -> None:
    """Print a batch script for Slurm's sbatch."""
    from cluster.manifests.shape import Node
    from cluster.manifests.slurm import Batch, sbatch_script
    from cluster.submission import require_submittable

    run = load_any(config, overrides)
    require_submittable(run)
    node = Node(cpus_per_node, gpus_per_node)
    batch = Batch(node, hours, notice_seconds, restarts, option or ())
    print(sbatch_script(run, config, overrides or [], batch), end="")
