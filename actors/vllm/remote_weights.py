"""Weights of a run at an address, on the node of an engine.

Invariant: they are on that node before the engine holds requests back to load them. Where the store
fails meanwhile, the engine is started again like after any failure.
"""

import asyncio
from pathlib import Path

from r2v_dist.errors import UsageError
from r2v_dist.object_storage.mirror import at_hand, of, shown


def require_reachable(path: str, adapter: str, across_nodes: bool) -> None:
    """Raises UsageError where ranks of one engine on other nodes would not find a model or its
    adapter.
    """
    remote = [Path(folder) for folder in (path, adapter) if folder and of(Path(folder))]
    if across_nodes and remote:
        raise UsageError(
            f"{shown(remote[0])}: the engine's ranks are on several nodes, which do not fetch a "
            "model from an address; set tensor_parallel and pipeline_parallel to what one node "
            f"holds, or run_dir to a path on storage that every node sees"
        )


async def fetch(path: str, adapter: str) -> None:
    """Have a model and its adapter on this node."""
    for folder in filter(None, (path, adapter)):
        await asyncio.to_thread(at_hand, Path(folder))
