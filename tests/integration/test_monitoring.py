"""Every query of the dashboard has an answer in a Prometheus that watched a small run."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import runs
from tests.runs import ROOT

DASHBOARD = ROOT / "cluster" / "dashboards" / "r2v.json"
WITH_A_GPU = {"ray_node_gpus_utilization"}
"""Metrics that a machine without a GPU does not have."""
RUN = [
    "configs/textworld_demo.yaml",
    "env.splits={train: 8, validation: 4, calibration: 3, test: 4}",
    "perturb.test_seeds=4",
    "collect={tasks: 8, perturbed_episodes: 2}",
    "bc.epochs=8",  # steps enough for a loss to be logged
    "verifier=null",
    "dpo=null",
    "router=null",
    "evaluate.rates=[0.3]",
    "cluster.shard_seconds=0.5",
    "cluster.shard_episodes=8",
    "cluster.metrics.vllm=true",
]


def prometheus_binary() -> str:
    found = os.environ.get("R2V_PROMETHEUS") or shutil.which("prometheus")
    if found is None:
        pytest.skip("needs Prometheus: apt-get install prometheus, or R2V_PROMETHEUS=its path")
    return found


@contextmanager
def prometheus(folder: Path, targets: Path) -> Iterator[str]:
    """A Prometheus that reads where to scrape from a file; its address."""
    config = folder / "prometheus.yml"
    scrape = (
        f"- job_name: ray\n  file_sd_configs:\n  - files: ['{targets}']\n    refresh_interval: 1s"
    )
    config.write_text(f"global: {{scrape_interval: 1s}}\nscrape_configs:\n{scrape}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        prometheus_binary(),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(address: str, expression: str, begun: float) -> list[Any]:
    """The series of a query over the time since the run began. Raises HTTPError for a wrong one."""
    query = {"query": expression, "start": begun, "end": time.time(), "step": 1}
    url = f"{address}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=30) as reply:
        body = json.load(reply)
    assert body["status"] == "success"
    series: list[Any] = body["data"]["result"]
    return series


def expressions() -> list[str]:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def concrete(expression: str) -> str:
    """The query as Grafana sends it."""
    return expression.replace("$__rate_interval", "10s").replace("$run", "textworld_demo")


def test_every_query_is_one_that_prometheus_reads(tmp_path: Path) -> None:
    promtool = Path(prometheus_binary()).with_name("promtool")
    rules = [
        {"record": f"query{number}", "expr": concrete(expression)}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.slow
def test_every_query_of_the_dashboard_has_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    run_dir = tmp_path / "run"
    begun = time.time()
    targets = run_dir / "logs" / "prometheus_targets.json"
    targets.parent.mkdir(parents=True)  # a folder that is not there is not watched
    with prometheus(tmp_path, targets) as address:
        runs.finish(RUN, run_dir, timeout=580)
        assert not targets.exists()  # nobody looks for Ray that has ended
        silent = []
        for expression in expressions():
            series = answers(address, concrete(expression), begun)
            needs_gpu = WITH_A_GPU & set(re.findall(r"ray_\w+", expression))
            if not series and not needs_gpu:
                silent.append(expression)
        assert silent == []
        [steps] = answers(address, "sum(max_over_time(ray_r2v_dispatcher_steps_total[1h]))", begun)
        told = sum(
            row["steps"]
            for path in (run_dir / "stages").glob("*/metrics.jsonl")
            for row in map(json.loads, path.read_text().splitlines())
            if "steps" in row
        )
        assert float(steps["values"][-1][1]) == told
