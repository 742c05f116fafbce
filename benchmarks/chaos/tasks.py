"""Tasks that end their process, hang or raise, and nodes on which nothing can be played: who is
blamed for them.

One bad task among many, of a small environment, in a stage of its own for each kind; then nodes
that lack the games, the sandbox, or room on their disks, beside one that lacks nothing.
"""

import time
from pathlib import Path
from typing import Any

import ray

from actors.dispatcher import roll_out
from actors.env_runner import RunnerSetup
from actors.runner_group import RunnerGroup
from benchmarks.chaos.nodes import started_head
from benchmarks.chaos.poisoned_moor import BROKEN_NODE, walks
from cluster.session import ray_session
from envs.own import EnvSource
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.perturbation import PerturbConfig
from r2v_dist.episodes import Arm, Task, Unit
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.quarantine import quarantined

SETUP = RunnerSetup(
    ModelConfig(backend="simulated", failure_rate=0.3),
    ModelConfig(backend="expert"),
    "",
    "",
    PerturbConfig(),
    unit_timeout_s=60,
    env_deadline_s=2,
    environment=EnvSource.of(f"{Path(__file__).with_name('poisoned_moor.py')}:SPEC"),
)
CLUSTER = ClusterConfig(runners=2, in_flight=4, shard_seconds=0.5)
ARM = Arm("slm_only", None, "simulated-0.3", "expert", 0)
KINDS = ("kill", "hang", "raise")
LACKS = ("games", "sandbox", "disk")
NODE = {"num_cpus": 2, "include_dashboard": False}


def poison(tasks: int, folder: Path) -> dict[str, Any]:
    """One bad task among `tasks`, for each kind of bad."""
    found: dict[str, Any] = {"tasks": tasks}
    with ray_session(CLUSTER, folder / "logs"):
        runners = RunnerGroup(SETUP, None, None, CLUSTER, folder / "logs")
        for kind in KINDS:
            stage = folder / "poison" / kind
            began = time.monotonic()
            roll_out(_units(walks(tasks, [kind])), stage, runners, CLUSTER, lambda *_: None)
            given_up = [one.task for one in quarantined(stage)]
            found[kind] = {
                "named": any(task.startswith(kind) for task in given_up),
                "innocents": sum(not task.startswith(kind) for task in given_up),
                "rows_lost": tasks - len(rollout_store.committed_keys(stage)),
                "seconds": round(time.monotonic() - began, 1),
            }
        runners.stop()
    good = {"named": True, "innocents": 0, "rows_lost": 0}
    clean = all(good.items() <= found[kind].items() for kind in KINDS)
    return found | {"outcomes_equal": clean}


def bad_nodes(tasks: int, folder: Path) -> dict[str, Any]:
    """A good node and one that lacks something, for each thing that may be lacking."""
    counts = {what: folder / f"failed-for-{what}" for what in LACKS}
    nodes = started_head(NODE)
    try:
        for what, count in counts.items():
            lacks = {BROKEN_NODE: f"{what}:{count}"}
            nodes.add_node(num_cpus=2, env_vars=lacks, resources={what: 1})
        changes = {"address": nodes.address, "runners": 4, "node_rest_s": 3600.0}
        return _on_bad_nodes(tasks, folder, CLUSTER.model_copy(update=changes), counts)
    finally:
        nodes.shutdown()


def _on_bad_nodes(
    tasks: int, folder: Path, cluster: ClusterConfig, counts: dict[str, Path]
) -> dict[str, Any]:
    stage = folder / "bad-nodes"
    with ray_session(cluster, folder / "logs"):
        lacking = {
            what: node["NodeID"][:8]
            for node in ray.nodes()
            for what in LACKS
            if what in node["Resources"]
        }
        runners = RunnerGroup(SETUP, None, None, cluster, folder / "logs")
        totals = roll_out(_units(walks(tasks)), stage, runners, cluster, lambda *_: None)
        excluded = runners.nodes.excluded()
        runners.stop()
    failed = {
        what: len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
        for what, path in counts.items()
    }
    all_excluded = all(any(n.endswith(node) for n in excluded) for node in lacking.values())
    lost = tasks - len(rollout_store.committed_keys(stage))
    return {
        "tasks": tasks,
        "failed_before_exclusion": failed,
        "excluded": len(excluded),
        "innocents": totals.quarantined,
        "rows_lost": lost,
        "outcomes_equal": all_excluded and not lost and not totals.quarantined,
    }


def _units(tasks: list[Task]) -> list[Unit]:
    return [Unit("evaluate", "hash", task, 0, 0, (ARM,)) for task in tasks]
