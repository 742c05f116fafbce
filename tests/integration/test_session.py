"""A real Ray of this machine's own: nothing in the environment leads it elsewhere, and it keeps
quiet.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.runs import ROOT

PROGRAM = """
import os, sys, time
from pathlib import Path
from cluster.session import ray_session
from r2v_dist.config.cluster import ClusterConfig

with ray_session(ClusterConfig(num_cpus=1), Path(sys.argv[1])):
    import ray

    @ray.remote(num_cpus=0, max_restarts=0)
    class Fragile:
        def end(self):
            os._exit(7)

    try:
        ray.get(Fragile.remote().end.remote())
    except ray.exceptions.RayActorError:
        print(int(ray.cluster_resources()["CPU"]), flush=True)
    time.sleep(600)
"""

STRANGER = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
    print("let in")
except AuthenticationError:
    print("refused")
"""


def test_an_address_in_the_environment_is_not_followed_and_deaths_are_logged(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env={**_without_settings_of_ray(), "RAY_ADDRESS": "127.0.0.1:6399"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    started = psutil.Process(process.pid).children(recursive=True)
    assert {"raylet", "gcs_server"} <= {child.name() for child in started}
    log = tmp_path / "ray.log"
    # The raylet says so a moment later.
    for _ in range(100):
        if "died" in log.read_text():
            break
        psutil.wait_procs(started[:1], timeout=0.1)
    assert "died" in log.read_text()
    assert _stranger_at((tmp_path / "ray_session.txt").read_text().strip()) == "refused"
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output == ""
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert "raylet" not in errors
    assert psutil.wait_procs(started, timeout=20)[1] == []


def _stranger_at(address: str) -> str:
    """What comes of a process of this machine that does not know the token."""
    return subprocess.run(
        [sys.executable, "-c", STRANGER, address],
        env={**_without_settings_of_ray(), "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()


def _without_settings_of_ray() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
