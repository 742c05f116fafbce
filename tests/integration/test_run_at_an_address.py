"""A run whose directory is in an object store: killed, and continued by a machine that has nothing
of it.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from r2v_dist.config.places import run_folder
from r2v_dist.object_storage.object_store import ObjectStore
from r2v_dist.storage import rollouts as rollout_store
from tests.conftest import GAME_CACHE
from tests.object_storage import SECRET, s3_server
from tests.runs import ROOT

ADDRESS = "s3://bucket/runs/one"
SMALL = [
    "configs/textworld_simulated.yaml",
    "env.splits={train: 2, validation: 2, test: 2}",
    f"env.cache={GAME_CACHE}",
    "router=null",
    "evaluate={rates: [0.25], routers: [random, entropy]}",
    "perturb={validation_seeds: 10, test_seeds: 10}",
    "cluster.executor=inline",
    "cluster.shard_seconds=0.1",
    "cluster.shard_episodes=8",
]


def r2v(disk: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "r2v_dist.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(disk)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shards() -> dict[str, str]:
    return {meta.name: meta.tag for meta in ObjectStore(ADDRESS).list("rollouts/")}


def wait_for_shards(run: "subprocess.Popen[str]", count: int) -> None:
    deadline = time.monotonic() + 300
    while len(shards()) < count:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def times_played(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many rows each episode has in the shards of both stages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    keys = Counter[str]()
    for stage in ("validate", "evaluate"):
        folder = run_folder(ADDRESS, readers=True) / "rollouts" / stage
        rows = rollout_store.outcomes(rollout_store.read(folder, ["key", "t"]))
        keys.update(rows["key"].to_pylist())
    assert len(keys) >= 2 * (2 * 10 * 2 + 2 * 2)  # SLM and teacher alone, perturbed and clean
    return keys


@pytest.mark.slow
def test_a_killed_run_is_continued_from_its_address_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server():
        first = r2v(tmp_path / "first", "run", *SMALL, f"run_dir={ADDRESS}")
        wait_for_shards(first, 3)
        second = r2v(tmp_path / "second", "run", *SMALL, f"run_dir={ADDRESS}")
        _, refused = second.communicate(timeout=300)
        assert second.returncode == 2
        assert f"run_dir = {ADDRESS}: another run (host " in refused
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=60)
        committed = shards()

        second = r2v(tmp_path / "second", "run", *SMALL, f"run_dir={ADDRESS}")
        printed, said = second.communicate(timeout=500)
        assert second.returncode == 0, said
        assert f"Report: {ADDRESS}/report/index.html" in printed
        assert shards().items() >= committed.items()

        shown = r2v(tmp_path / "third", "report", ADDRESS)
        printed_again, said_there = shown.communicate(timeout=300)
        assert shown.returncode == 0, said_there
        assert printed_again.splitlines()[:3] == printed.splitlines()[:3]
        assert SECRET not in printed + said + printed_again + said_there

        assert set(times_played(tmp_path / "third", monkeypatch).values()) == {1}


@pytest.mark.slow
def test_a_driver_that_slept_commits_nothing_after_another_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server():
        first = r2v(tmp_path / "first", "run", *SMALL, "cluster.lease_s=2", f"run_dir={ADDRESS}")
        wait_for_shards(first, 3)
        first.send_signal(signal.SIGSTOP)
        time.sleep(3)  # its lease is over
        second = r2v(tmp_path / "second", "run", *SMALL, f"run_dir={ADDRESS}")
        wait_for_shards(second, 6)
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=120)
        assert first.returncode == 1, said
        assert f"run_dir = {ADDRESS}: another run (host " in said
        assert "has taken over; this run ends, and what it committed is kept" in said
        _, said_by_second = second.communicate(timeout=500)
        assert second.returncode == 0, said_by_second
        assert "gives no sign of life and is superseded" in said_by_second
        assert set(times_played(tmp_path / "third", monkeypatch).values()) == {1}
