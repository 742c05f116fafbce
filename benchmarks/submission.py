"""A run as a job: how soon it has an id, and whether it lives on when its client, the job and then
the whole cluster are killed.

Starts two Ray clusters on this machine, one after the other, in folders of their own, and ends
exactly those. `ratio` is `WITHIN_S` over the slowest submission, as the client's command takes it.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Mismatch, publish, same
from r2v_dist.files import read_json_lines
from r2v_dist.storage import rollouts as rollout_store

WITHIN_S = 10.0
"""What a submission may take."""
_ROOT = Path(__file__).parent.parent
_CONFIG = "configs/textworld_simulated.yaml"
_SMALL = (
    "router=null",
    "env.splits={train: 1, validation: 4, calibration: 4, test: 8}",
    "evaluate.rates=[0.1, 0.3]",
    "cluster.shard_seconds=0.2",
    "cluster.shard_episodes=8",
)
_STARTS_S = 180.0
_ENDS_S = 600.0
_CPUS = "2"


@dataclass(frozen=True)
class Head:
    """A Ray cluster of one node that this process started."""

    process: psutil.Process
    url: str


def main() -> None:
    """Submit, kill the client, stop, submit again, kill the cluster, submit to another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", default=list(_SMALL), metavar="KEY=VALUE")
    overrides = parser.parse_args().overrides
    with tempfile.TemporaryDirectory(prefix="r2v") as name:
        folder = Path(name)
        run_dir = folder / "run"
        job = [_CONFIG, *overrides, f"run_dir={run_dir}"]
        with _head(folder / "a") as head:
            first, first_s = _submit(head, job)
            _let_it_play(run_dir, "validate", 1)
            again, _ = _submit(head, job)
            same("id of a job that is under way", again, first)
            print(_r2v(head, "stop", first), file=sys.stderr)
            played = _episodes(run_dir)
            second, second_s = _submit(head, job)
            _let_it_play(run_dir, "validate", played + 1)
        before = _keys(run_dir)
        with _head(folder / "b") as head:
            third, third_s = _submit(head, job)
            _wait_for_end(head, third)
            listed = json.loads(_r2v(head, "jobs", "--json"))
        same("jobs of the second cluster", [row["status"] for row in listed], ["SUCCEEDED"])
        _check(run_dir, before)
        attempts = len(read_json_lines(run_dir / "stages" / "validate" / "attempts.jsonl"))
    seconds = [first_s, second_s, third_s]
    publish(
        "submission",
        f"{WITHIN_S:g} s",
        WITHIN_S / max(seconds),
        [("slowest submission", f"{max(seconds):.1f} s", f"{WITHIN_S:g} s")],
        seconds=seconds,
        ids=[first, second, third],
        episodes_before_the_cluster_died=len(before),
        attempts_of_the_stage=attempts,
    )


def _submit(head: Head, job: list[str]) -> tuple[str, float]:
    """Submit, and kill the client as soon as it has named the job; its id and the seconds."""
    began = time.perf_counter()
    client = subprocess.Popen(
        _command(head, "submit", *job), cwd=_ROOT, stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert client.stdout is not None
    with client:
        job_id = client.stdout.readline().strip()
        took = time.perf_counter() - began
        client.kill()
    if not job_id:
        raise Mismatch("`r2v submit` named no job; what it said is above")
    print(f"{job_id} in {took:.1f} s, client killed", file=sys.stderr, flush=True)
    return job_id, took


def _let_it_play(run_dir: Path, stage: str, episodes: int) -> None:
    """Wait until the stage has committed so many episodes."""
    deadline = time.monotonic() + _STARTS_S
    while _episodes(run_dir, stage) < episodes:
        if time.monotonic() > deadline:
            raise Mismatch(f"{stage}: fewer than {episodes} episodes after {_STARTS_S:g} s")
        time.sleep(0.2)


def _episodes(run_dir: Path, stage: str = "validate") -> int:
    folder = run_dir / "rollouts" / stage
    return len(rollout_store.committed_keys(folder)) if folder.is_dir() else 0


def _keys(run_dir: Path) -> list[str]:
    """Every committed episode's key, as often as it is there."""
    keys: list[str] = []
    for folder in sorted((run_dir / "rollouts").iterdir()):
        table = rollout_store.outcomes(rollout_store.read(folder, ["key", "t", "success"]))
        keys += table["key"].to_pylist()
    return keys


def _check(run_dir: Path, before: list[str]) -> None:
    """The report is there, no episode is there twice, and none of the dead cluster's is lost."""
    if not (run_dir / "report" / "index.html").is_file():
        raise Mismatch("the job ended without a report")
    after = _keys(run_dir)
    same("episodes, and different ones", len(after), len(set(after)))
    same("episodes that were lost with the cluster", set(before) - set(after), set())


def _wait_for_end(head: Head, job_id: str) -> None:
    """Follow the job; what it prints goes beside the progress of the benchmark."""
    done = subprocess.run(
        _command(head, "logs", job_id, "--follow"),
        cwd=_ROOT,
        stdout=sys.stderr,
        timeout=_ENDS_S,
        check=False,
    )
    same("exit code of `r2v logs --follow`", done.returncode, 0)


def _r2v(head: Head, *arguments: str) -> str:
    done = subprocess.run(
        _command(head, *arguments),
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=_STARTS_S,
        check=True,
    )
    return done.stdout.strip()


def _command(head: Head, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "r2v_dist.cli", *arguments, "--address", head.url]


@contextlib.contextmanager
def _head(folder: Path) -> Iterator[Head]:
    """A cluster that is killed, with all its processes, at the end of the block."""
    folder.mkdir()
    port, dashboard, agent, client = _free_ports(4)
    ray = shutil.which("ray", path=str(Path(sys.executable).parent))
    if ray is None:
        raise Mismatch(f"{Path(sys.executable).parent}: the command ray is not there")
    command = [
        *(ray, "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address", "127.0.0.1", "--port", str(port)),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
        *("--dashboard-agent-listen-port", str(agent), "--ray-client-server-port", str(client)),
        *("--temp-dir", str(folder), "--num-cpus", _CPUS, "--object-store-memory", "100000000"),
    ]
    # A job's command is `python`, the first on the head's path.
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "RAY_raylet_start_wait_time_s": "120"}
    with (folder / "head.log").open("w", encoding="utf-8") as log:
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    process = psutil.Process(started.pid)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        for place in (f"{url}/api/version", f"http://127.0.0.1:{agent}/api/healthz"):
            _wait_for_answer(place, started, folder / "head.log")
        yield Head(process, url)
    finally:
        _kill(process)
        started.wait()


def _wait_for_answer(url: str, started: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _STARTS_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if started.poll() is not None or time.monotonic() > deadline:
            raise Mismatch(f"Ray did not start: {log.read_text(encoding='utf-8')[-1000:]}")
        time.sleep(0.5)


def _kill(process: psutil.Process) -> None:
    """The head and everything below it, the job's driver among them, without a warning."""
    tree = [process, *process.children(recursive=True)]
    for member in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(tree, timeout=30)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken: list[Any] = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]


if __name__ == "__main__":
    main()
