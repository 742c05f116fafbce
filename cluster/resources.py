"""What a cluster has, and whether it ever finds room for what a run asks: a run that it could not
place would wait for ever. Nothing else asks Ray about resources.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from r2v_dist.config.run import RunConfig
from r2v_dist.errors import UsageError

_SECTIONS = {"verifier": "verifier.training"}
"""Of the configuration, where a learner has another name."""


@dataclass(frozen=True)
class Resources:
    """Cores and GPUs."""

    cpus: float
    gpus: float


def everything() -> Resources:
    """What the cluster has that this process has joined."""
    import ray

    return _of(ray.cluster_resources())


def unused() -> Resources:
    """What nobody holds at the moment."""
    import ray

    return _of(ray.available_resources())


def largest_node_gpus() -> float:
    """GPUs of the node that has most of them, whoever holds them."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return max((node["Resources"].get("GPU", 0.0) for node in alive), default=0.0)


def gpu_share(asked: float) -> float:
    """What an actor asks of a GPU: nothing where the cluster has none."""
    return asked if everything().gpus > 0 else 0


def must_make_room(ranks: int) -> bool:
    """Whether a learner's ranks find GPUs once others have given theirs up, and not before."""
    return everything().gpus >= ranks > unused().gpus


def require_ranks(learner: str, ranks: int, there: Resources) -> bool:
    """Whether the ranks take GPUs. Raises UsageError where they find neither GPUs nor cores."""
    if there.gpus >= ranks:
        return True
    if there.cpus < ranks:
        raise UsageError(
            f"{_SECTIONS.get(learner, learner)}.deepspeed.ranks = {ranks}: the cluster has "
            f"{there.cpus:g} CPU cores and every rank takes one; lower the key, raise "
            f"cluster.num_cpus where it is set, or add nodes"
        )
    return False


def require_placement(config: RunConfig) -> None:
    """Raises UsageError where this cluster never finds room for something that the run starts."""
    if problem := placement_problem(config, everything()):
        raise UsageError(problem)


def placement_problem(config: RunConfig, there: Resources) -> str | None:
    """Why there is never room for something that the run starts; None where there is.

    A rank takes a whole GPU where there is one for each, else a core; engines and the verifier
    share what GPUs there are.
    """
    if problem := ranks_problem(ranks_of(config), there):
        return problem
    asked = config.all_gpus
    if 0 < there.gpus < asked:
        return (
            f"{' + '.join(config.gpus)} = {asked:g} GPUs, the cluster has {there.gpus:g}: lower "
            f"these keys, or add GPUs"
        )
    return None


def ranks_problem(ranks: Mapping[str, int], there: Resources) -> str | None:
    """Which learner, by the key of its ranks, never finds a GPU or a core for each of them."""
    for key, count in ranks.items():
        if count > max(there.cpus, there.gpus):
            return (
                f"{key} = {count}: a rank takes a core and there are {there.cpus:g}; "
                "lower it, or raise cluster.num_cpus"
            )
    return None


def ranks_of(config: RunConfig) -> dict[str, int]:
    """How many ranks every learner of this run has, by the key that says so."""
    ranks: dict[str, int] = {}
    if config.slm.backend == "vllm":
        ranks["bc.deepspeed.ranks"] = config.bc.deepspeed.ranks
    if config.verifier is not None and config.verifier.kind == "trained":
        ranks["verifier.training.deepspeed.ranks"] = config.verifier.training.deepspeed.ranks
    if config.dpo is not None:
        ranks["dpo.deepspeed.ranks"] = config.dpo.deepspeed.ranks
    if config.router is not None:
        ranks["router.deepspeed.ranks"] = config.router.deepspeed.ranks
    return ranks


def _of(resources: Mapping[str, float]) -> Resources:
    return Resources(resources.get("CPU", 0), resources.get("GPU", 0))
