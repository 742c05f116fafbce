"""Two nodes, on one of which no environment can begin: it is excluded, and no task is blamed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from r2v_dist.storage import rollouts as rollout_store
from tests.runs import ROOT, json_object

PROGRAM = """
import json, sys
from pathlib import Path

from ray.cluster_utils import Cluster

from actors.dispatcher import roll_out
from actors.runner_group import RunnerGroup
from cluster.session import ray_session
from tests.integration.test_poisoned_tasks import CLUSTER, SETUP, units
from tests.poisoned_moor import BROKEN_NODE, walks

folder = Path(sys.argv[1])
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
nodes.add_node(num_cpus=2, env_vars={BROKEN_NODE: "1"}, resources={"broken": 1})
config = CLUSTER.model_copy(update={"address": nodes.address, "in_flight": 4, "node_rest_s": 3600})
with ray_session(config, folder / "logs"):
    import ray

    [broken] = [node["NodeID"] for node in ray.nodes() if "broken" in node["Resources"]]
    runners = RunnerGroup(SETUP, None, None, config, folder / "logs")
    totals = roll_out(units(walks(60)), folder / "rollouts", runners, config, lambda *_: None)
    excluded = runners.nodes.excluded()
    left = [runners.where(runner) for runner in runners.members]
    runners.stop()
found = {"excluded": excluded, "broken": broken, "left": left, "quarantined": totals.quarantined}
print(json.dumps(found))
nodes.shutdown()
"""


@pytest.mark.slow
def test_a_node_on_which_nothing_can_begin_is_excluded_and_no_task_is_blamed(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "120"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json_object(done.stdout.splitlines()[-1])
    [excluded] = found["excluded"]
    assert excluded.endswith(found["broken"][:8])
    assert excluded not in found["left"]
    assert found["quarantined"] == 0
    assert len(rollout_store.committed_keys(tmp_path / "rollouts")) == 120
    assert "is excluded: units failed there that succeed elsewhere" in done.stderr
    assert "there are no walks on this node" in done.stderr
