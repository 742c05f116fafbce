"""Kill or terminate the driver at some moment and run it again: nothing is lost, nothing is done
twice.
"""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from r2v_dist.config.run import load_config
from r2v_dist.storage import rollouts as rollout_store
from tests.runs import REAL, SIMULATED, finish, outcomes, router_weights, start

FEW_ROUTERS = [*SIMULATED, "evaluate.routers=[random, logistic, r2v, r2v_value]"]


def kill_somewhere(arguments: list[str], run_dir: Path, after_s: float) -> None:
    process = start(arguments, run_dir)
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def end_during(
    arguments: list[str], run_dir: Path, stage: str, how: signal.Signals
) -> tuple[int, str]:
    """Send the signal once the stage has committed something but not everything; the exit code and
    what was complained.
    """
    process, deadline = start(arguments, run_dir), time.monotonic() + 300
    while (
        not rollout_store.shards(run_dir / "rollouts" / stage)
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert rollout_store.shards(run_dir / "rollouts" / stage)
    return process.returncode, errors


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs, in one process."""
    run_dir = tmp_path_factory.mktemp("calm")
    finish([*FEW_ROUTERS, "cluster.executor=inline"], run_dir, 400)
    return run_dir


@pytest.mark.timeout(1500)
def test_a_killed_run_on_ray_ends_like_one_in_one_process(calm: Path, tmp_path: Path) -> None:
    """With another number of collectors in every attempt."""
    two = [*FEW_ROUTERS, "cluster.collectors=2"]
    assert end_during(two, tmp_path, "labels", signal.SIGKILL)[0] == -signal.SIGKILL
    assert len(outcomes(tmp_path)) < len(outcomes(calm))
    assert_it_ends_like(calm, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_terminated_run_on_ray_says_how_to_go_on(calm: Path, tmp_path: Path) -> None:
    three = [*FEW_ROUTERS, "cluster.collectors=3"]
    code, said = end_during(three, tmp_path, "visits", signal.SIGTERM)
    *progress, complaint = said.splitlines()
    assert (code, complaint) == (130, "r2v: interrupted; run the same command again to continue")
    assert all(line.startswith("[") for line in progress)
    assert_it_ends_like(calm, tmp_path)


def assert_it_ends_like(calm: Path, hurt: Path) -> None:
    """Finish a run that was stopped, and compare it with one that was not."""
    assert "SIMULATED" in finish(FEW_ROUTERS, hurt, 800)
    assert outcomes(hurt) == outcomes(calm)
    assert router_weights(hurt) == router_weights(calm)
    keys = [key for key, _ in outcomes(hurt)]
    assert len(set(keys)) == len(keys)
    # On test tasks: both ends, clean and under every seed, and every router's thresholds under
    # every seed.
    thresholds = json.loads((hurt / "stages" / "validate" / "manifest.json").read_text())[
        "results"
    ]["thresholds"]
    swept = sum(map(len, thresholds.values()))
    config = load_config(Path(FEW_ROUTERS[0]), FEW_ROUTERS[1:])
    assert set(thresholds) == set(config.swept)
    played = config.env.splits.test * (2 + config.perturb.test_seeds * (2 + swept))
    assert sum(key.startswith("evaluate|") for key in keys) == played


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_whole_pipeline_survives_kills_at_random_moments(tmp_path: Path) -> None:
    calm, hurt = tmp_path / "calm", tmp_path / "hurt"
    started = time.monotonic()
    finish(REAL, calm, 900)
    duration = time.monotonic() - started
    rng = random.Random(0)
    for _ in range(4):
        kill_somewhere(REAL, hurt, rng.uniform(0.2, 0.9) * duration)
    finish(REAL, hurt, 900)
    assert outcomes(hurt) == outcomes(calm)
    shutil.rmtree(hurt)
