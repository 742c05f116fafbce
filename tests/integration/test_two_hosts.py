"""Runs on two hosts that share a folder and a network, with Ray started on each as docs/cluster.md
says: what is local to one host is of no use on the other, and a cable that is pulled loses nothing.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts import PORT, Host, two_hosts, wait_for
from tests.runs import REAL, SIMULATED, outcomes, router_weights


def run(host: Host, arguments: list[str], storage: Path) -> "subprocess.Popen[str]":
    """Start `r2v run` on a host, of the cluster that both form."""
    settings = [
        f"run_dir={storage / 'run'}", f"env.cache={storage / 'cache'}",
        f"cluster.address={host.address}:{PORT}", "cluster.runners=2",
    ]  # fmt: skip
    return host.start(sys.executable, "-m", "r2v_dist.cli", "run", *arguments, *settings)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # makes the run that it compares with, if no other test has
def test_a_run_on_two_hosts_survives_a_pulled_cable(simulated_run: Path, tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (head, other):
        head.ray("--head", f"--port={PORT}", "--include-dashboard=false", cpus=1)
        other.ray(f"--address={head.address}:{PORT}", cpus=1)
        driver = run(head, SIMULATED, tmp_path)
        wait_for("visits", 300, driver, tmp_path / "run" / "rollouts" / "visits")
        other.cut()
        output, errors = driver.communicate(timeout=900)
    assert driver.returncode == 0, errors[-2000:]
    assert "SIMULATED" in output
    said = (tmp_path / "run" / "logs" / "ray.log").read_text(encoding="utf-8")
    assert f"address: {other.address}" in said  # Ray tells of the node that it lost
    assert outcomes(tmp_path / "run") == outcomes(simulated_run)
    assert router_weights(tmp_path / "run") == router_weights(simulated_run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_engines_and_ranks_work_on_two_hosts(tmp_path: Path) -> None:
    """vLLM, the verifier, and two ranks of BC and DPO, for which each host has one core."""
    ranks = ["bc.deepspeed.ranks=2", "dpo.deepspeed.ranks=2"]
    with two_hosts(tmp_path) as (head, other):
        head.ray("--head", f"--port={PORT}", "--include-dashboard=false", cpus=1)
        other.ray(f"--address={head.address}:{PORT}", cpus=1)
        driver = run(head, [*REAL, *ranks, "cluster.gpus=none"], tmp_path)
        _, errors = driver.communicate(timeout=1500)
    assert driver.returncode == 0, errors[-2000:]
    assert outcomes(tmp_path / "run")
