"""Where an engine's ranks go. One placement group an engine, so that no two engines hold parts of
what both need.

A group keeps its place when the engine's process is started again. Engines of one rank share GPUs
with others and need no group.
"""

from dataclasses import dataclass
from typing import Any

from cluster import environment, resources
from r2v_dist.config.models import ModelConfig


@dataclass(frozen=True)
class Bundles:
    """What one engine asks for: the bundles of its placement group, none where it has none, and
    whether vLLM is to start the ranks through Ray.
    """

    resources: tuple[dict[str, float], ...]
    strategy: str
    across_nodes: bool


def bundles_of(config: ModelConfig, largest_node_gpus: float) -> Bundles:
    """The bundles of an engine of several ranks. `largest_node_gpus` are the GPUs of the node that
    has most; 0 in a cluster without GPUs.
    """
    if config.ranks == 1 or not largest_node_gpus:
        return Bundles((), "", False)
    kind = {}
    if config.accelerator_type:
        kind = {f"accelerator_type:{config.accelerator_type}": 0.001}
    if config.ranks <= largest_node_gpus:
        return Bundles(({"GPU": float(config.ranks), **kind},), "STRICT_PACK", False)
    # vLLM's Ray executor takes one GPU a bundle, and gives neighbours on a node to one stage.
    return Bundles(tuple({"GPU": 1.0, **kind} for _ in range(config.ranks)), "PACK", True)


@dataclass(frozen=True)
class EnginePlace:
    """Ray's options of an engine's actor, and its placement group where it has one."""

    options: dict[str, Any]
    across_nodes: bool = False
    group: Any = None

    def give_back(self) -> None:
        """Free what the group holds. The actor has ended."""
        if self.group is not None:
            from ray.util.placement_group import remove_placement_group

            remove_placement_group(self.group)


def place_engine(config: ModelConfig) -> EnginePlace:
    """Ask for the place of one engine; does not wait until it is free."""
    on_gpu = resources.gpu_share(config.gpus) > 0
    options: dict[str, Any] = {
        "num_cpus": 0,
        "runtime_env": {"env_vars": environment.of_engine(on_gpu) | resources.variables()},
    }
    selector = config.label_selector
    bundles = bundles_of(config, resources.largest_node_gpus() if on_gpu else 0)
    if not bundles.resources:
        if on_gpu:
            options["num_gpus"] = config.gpus
        if on_gpu and config.accelerator_type:
            options["accelerator_type"] = config.accelerator_type
        if selector:
            options["label_selector"] = selector
        return EnginePlace(options)
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    selectors = [selector] * len(bundles.resources) if selector else None
    group = placement_group(
        list(bundles.resources), bundles.strategy, bundle_label_selector=selectors
    )
    options["num_gpus"] = 0 if bundles.across_nodes else config.ranks
    options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    return EnginePlace(options, bundles.across_nodes, group)
