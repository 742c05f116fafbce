"""What a run requests of a cluster, and what the session decided about it. Nothing else asks Ray
about resources.

Whether models run on GPUs is decided once, when the session begins (`begin`); from then on a
request is the same whichever nodes are alive.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.placement import Bundle, Node, misfit
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.run import RunConfig
from r2v_dist.errors import UsageError, warn
from r2v_dist.object_storage import object_store

_SECTIONS = {"verifier": "verifier.training"}
"""Of the configuration, where a learner has another name."""
_ON_CORES = "router"
"""The learner whose ranks never take a GPU: a router has a few thousand parameters."""


@dataclass(frozen=True)
class Decided:
    """What holds for the whole session."""

    cluster: ClusterConfig
    gpus: bool
    """Whether models run on GPUs."""
    logs: Path | None = None
    """Where the logs of processes that died are kept."""
    rank_gpu: float = 1.0
    """What a learner's rank requests of a GPU: what engines that sleep there leave it."""

    @property
    def may_grow(self) -> bool:
        """Whether nodes may join: Ray that was started here has this machine alone."""
        return bool(self.cluster.address)

    @property
    def wait_s(self) -> float:
        return self.cluster.wait_for_resources_s


_session: Decided | None = None


def begin(cluster: ClusterConfig, logs: Path | None = None) -> Decided:
    """Decide for the session that this process has just started or joined."""
    global _session
    cluster_nodes = nodes()
    gpus = on_gpus(cluster, cluster_nodes)
    if cluster.gpus == "auto" and cluster.address and not gpus:
        warn(
            "cluster.gpus = auto: no node of the cluster has a GPU, so models run on CPUs; set "
            "require to wait for nodes with GPUs, or none"
        )
    _session = Decided(cluster, gpus, logs)
    return _session


def share_gpus(config: RunConfig) -> None:
    """Have a rank request what the engines of a GPU, which sleep meanwhile, leave of it. Nothing
    changes where engines end between phases.

    Raises UsageError where the engines cannot share every GPU with one rank.
    """
    global _session
    if config.cluster.phases == "restart":
        return
    session = decided()
    _session = replace(session, rank_gpu=sleeping_share(config, nodes(), session.gpus))


def sleeping_share(config: RunConfig, there: Sequence[Node], gpus: bool) -> float:
    """What is left of every GPU beside one sleeping engine of each model. Raises UsageError where
    engines, or ranks, would lie on GPUs in another way than one each.
    """
    key = "cluster.phases = sleep"
    if not gpus:
        raise UsageError(
            f"{key}: models run on CPUs here, where engines keep running; leave it out"
        )
    count = round(sum(node.gpus for node in there))
    engines = {
        name: share for name, share in config.gpus.items() if not name.startswith("verifier")
    }
    for name in engines:
        if name.endswith("tensor_parallel"):
            raise UsageError(f"{key}: an engine of several ranks cannot sleep; set restart")
        if config.replicas[name] != count:
            role = name.partition(".")[0]
            raise UsageError(
                f"{role}.replicas = {config.replicas[name]}: with {key} each of the {count} GPUs "
                f"holds one engine of each model; set {count}, or cluster.phases to restart"
            )
    room = round(1 - sum(engines.values()), 4)
    if count > 1 and engines and min(engines.values()) <= 0.5:
        raise UsageError(
            f"{key}: two engines of one model fit a GPU; raise "
            f"{min(engines, key=engines.__getitem__)} above 0.5, or set restart"
        )
    if room <= 0:
        raise UsageError(
            f"{' + '.join(engines)} = {1 - room:g}: with {key} a rank needs a share of the GPU "
            f"too; lower a key"
        )
    return room


def end() -> None:
    """Forget what was decided."""
    global _session
    _session = None


def decided() -> Decided:
    """What the session decided. A process that joined Ray by itself decides when it first asks."""
    return _session or begin(ClusterConfig())


def as_decided(config: RunConfig) -> RunConfig:
    """The same run with `cluster.gpus` as this session decided."""
    return config.with_gpus("require" if decided().gpus else "none")


def on_gpus(cluster: ClusterConfig, there: Sequence[Node]) -> bool:
    """Whether models run on GPUs."""
    if cluster.gpus == "auto":
        return any(node.gpus > 0 for node in there)
    return cluster.gpus == "require"


def nodes() -> list[Node]:
    """The nodes that are alive."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [_node(node["NodeManagerHostname"], node["Resources"]) for node in alive]


def largest_node_gpus() -> float:
    """GPUs of the node that has most of them, whoever holds them."""
    return max((node.gpus for node in nodes()), default=0.0)


def gpu_share(share: float) -> float:
    """What an actor requests of a GPU: nothing where models run on CPUs."""
    return share if decided().gpus else 0


def variables() -> dict[str, str]:
    """Environment variables that the configuration gives to whatever computes with a model."""
    return object_store.variables() | decided().cluster.env


def learner_on_gpu(learner: str) -> bool:
    """Whether the ranks of a learner take a GPU each."""
    return decided().gpus and learner != _ON_CORES


def rank_bundle(learner: str, ranks: int, gpus: bool) -> Bundle:
    """What the ranks of a learner need: a core each, and a GPU where models run on GPUs."""
    key = f"{_SECTIONS.get(learner, learner)}.deepspeed.ranks"
    return _ranks(key, ranks, gpus and learner != _ON_CORES)


def rank_resources(learner: str) -> dict[str, float]:
    """What one rank requests of Ray."""
    return {"CPU": 1, **({"GPU": decided().rank_gpu} if learner_on_gpu(learner) else {})}


def rollout_bundles(config: RunConfig, gpus: bool, there: Sequence[Node]) -> list[Bundle]:
    """What engines, verifiers and env runners, which live at the same time, need. The ranks of an
    engine lie on one node where a node has GPUs for all of them.
    """
    bundles: list[Bundle] = []
    largest = max((node.gpus for node in there), default=0.0)
    for key, gpus_each in config.gpus.items() if gpus else ():
        role = key.partition(".")[0]
        name = "the verifier" if role == "verifier" else f"the {role} engine"
        count = config.replicas[key]
        if 0 < largest < gpus_each and gpus_each > 1:
            bundles.append(
                Bundle(f"a rank of {name}", key, gpus_each, gpus=1, count=int(gpus_each) * count)
            )
        else:
            bundles.append(Bundle(name, key, gpus_each, gpus=gpus_each, count=count))
    # A runner takes a core to be placed and holds none while it lives.
    bundles.append(Bundle("an env runner", "cluster.runners", config.cluster.runners, cpus=1.0))
    return bundles


def learner_bundles(config: RunConfig, gpus: bool) -> list[Bundle]:
    """What the ranks of every learner of this run need; learners run one after the other."""
    return [
        _ranks(key, count, gpus and not key.startswith(_ON_CORES))
        for key, count in ranks_of(config).items()
    ]


def _ranks(key: str, count: int, gpu_each: bool) -> Bundle:
    return Bundle("a rank", key, count, 1.0, 1.0 if gpu_each else 0.0, count)


def require_placement(config: RunConfig) -> None:
    """Return when the cluster holds what rollouts start.

    Raises UsageError where nodes that it can have never hold what the run starts, RuntimeFailure
    when none has joined in time.
    """
    session = decided()
    for bundle in learner_bundles(config, session.gpus):
        if problem := misfit([bundle], nodes()):
            problem = f"{problem}; {fix(session.cluster, session.gpus)}"
            if not session.may_grow:
                raise UsageError(problem)
            warn(f"{problem}; it waits when its turn comes")
    require_room(rollout_bundles(config, session.gpus, nodes()))


def placement_problem(config: RunConfig, there: Sequence[Node], gpus: bool) -> str | None:
    """Why there is never room on these nodes for something that the run starts; None where there
    may be.
    """
    together = [[bundle] for bundle in learner_bundles(config, gpus)]
    for bundles in (*together, rollout_bundles(config, gpus, there)):
        if problem := misfit(bundles, there):
            return f"{problem}; {fix(config.cluster, gpus)}"
    return None


def fix(cluster: ClusterConfig, gpus: bool) -> str:
    """What to do where something finds no room."""
    if gpus:
        addition = ", add nodes" if cluster.address else ""
        return f"lower the key{addition}, or set cluster.gpus to none to run on CPUs"
    addition = "add nodes" if cluster.address else "raise cluster.num_cpus"
    return f"lower the key, or {addition}"


def ranks_of(config: RunConfig) -> dict[str, int]:
    """How many ranks every learner of this run has, by the key that says so."""
    ranks: dict[str, int] = {}
    if config.slm.backend == "vllm" and config.bc is not None:
        ranks["bc.deepspeed.ranks"] = config.bc.deepspeed.ranks
    if config.verifier is not None and config.verifier.kind == "trained":
        ranks["verifier.training.deepspeed.ranks"] = config.verifier.training.deepspeed.ranks
    if config.dpo is not None:
        ranks["dpo.deepspeed.ranks"] = config.dpo.deepspeed.ranks
    if config.router is not None:
        ranks["router.deepspeed.ranks"] = config.router.deepspeed.ranks
    return ranks


def must_make_room(ranks: int, rollout: Sequence[Bundle]) -> bool:
    """Whether engines and verifier have to end before ranks that take a GPU each can start.

    Nobody knows which GPUs shares lie on, so each counts as a whole one: an engine that ends for
    nothing costs its start, ranks that wait for one that stays wait for ever.
    """
    if not ranks or not decided().gpus:
        return False
    if decided().cluster.phases == "sleep":
        return True
    ranks_bundle = _ranks("ranks", ranks, gpu_each=True)
    whole_bundles = [
        replace(bundle, gpus=math.ceil(bundle.gpus)) for bundle in rollout if bundle.gpus
    ]
    together = misfit([ranks_bundle, *whole_bundles], nodes())
    return together is not None or misfit([ranks_bundle], _free_nodes()) is not None


def require_room(bundles: Sequence[Bundle]) -> None:
    """Return when the cluster has nodes that hold the bundles.

    Raises UsageError at once where no node can join, RuntimeFailure when none has joined in time.
    """
    session = decided()
    problem = misfit(bundles, nodes())
    if problem is None:
        return
    if not session.may_grow:
        raise UsageError(f"{problem}; {fix(session.cluster, session.gpus)}")
    from cluster.demand import wait_for_nodes

    wait_for_nodes(bundles, problem, session)


def _free_nodes() -> list[Node]:
    """The nodes with what nobody holds at the moment."""
    from ray._private.state import available_resources_per_node

    per_node: dict[str, dict[str, float]] = available_resources_per_node()
    return [_node(name, free) for name, free in per_node.items()]


def _node(name: str, resources: dict[str, Any]) -> Node:
    return Node(name, resources.get("CPU", 0.0), resources.get("GPU", 0.0))
