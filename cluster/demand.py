"""Waits for nodes: the demand is made, so that an autoscaler can answer it, the wait is named at
once, and it has a deadline.

The demand is a placement group for every bundle, which is given back when all are there.
"""

import time
from collections.abc import Sequence
from typing import Any

from cluster.placement import Bundle, misfit
from cluster.resources import Decided, fix, nodes
from r2v_dist.errors import RuntimeFailure, warn

_LOOK_S = 1.0


def wait_for_nodes(bundles: Sequence[Bundle], problem: str, session: Decided) -> None:
    """Return when the cluster has placed the bundles. Raises RuntimeFailure at the deadline."""
    from ray.util import remove_placement_group

    warn(
        f"{problem}; waiting for nodes, at most {session.wait_s:g} s (cluster.wait_for_resources_s)"
    )
    deadline = time.monotonic() + session.wait_s
    groups = [_group(bundle) for bundle in bundles]
    try:
        while not all(group.wait(_LOOK_S) for group in groups):
            if time.monotonic() > deadline:
                lack = misfit(bundles, nodes()) or f"{_named(bundles)}: others hold what is needed"
                raise RuntimeFailure(
                    f"{lack}; waited {session.wait_s:g} s (cluster.wait_for_resources_s); "
                    f"{fix(session.cluster, session.gpus)}"
                )
    finally:
        for group in groups:
            remove_placement_group(group)


def _group(bundle: Bundle) -> Any:
    from ray.util import placement_group

    amounts = {"CPU": bundle.cpus, "GPU": bundle.gpus}
    part = {name: amount for name, amount in amounts.items() if amount}
    return placement_group([part] * bundle.count, strategy="PACK")


def _named(bundles: Sequence[Bundle]) -> str:
    return " + ".join(str(bundle) for bundle in bundles)
