"""A runner with eight terminals that is killed at any time leaves nothing behind."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import ROOT
from tests.sandboxes import require_bubblewrap

KILLS = 20
RUNNER = """
import itertools, threading
from envs.terminal_bench.env import TerminalBenchEnv
from envs.terminal_bench.own.catalogue import FAMILIES

def play(number):
    for seed in itertools.count():
        env = TerminalBenchEnv(f"{sorted(FAMILIES)[number]}@{seed}", expert=True)
        env.reset()
        env.step("(setsid sleep 1000 &); sleep 1000 & echo x > /dev/shm/x")
        while not env.step(env.expert_action())[2]:
            pass
        env.close()
        print("played", flush=True)

threads = [threading.Thread(target=play, args=(number,), daemon=True) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def _of_runner(pid: int) -> list[int]:
    """Living processes in a control group that the runner made."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            groups = (folder / "cgroup").read_text(encoding="utf-8")
            ended = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[
                0
            ] in "ZX"
        except OSError:  # it ended meanwhile
            continue
        if f"/r2v-{pid}-" in groups and not ended:
            found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_a_killed_runner_leaves_nothing(tmp_path: Path) -> None:
    require_bubblewrap()
    rng = random.Random(7)
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    seen = 0
    for _ in range(KILLS):
        runner = subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        )
        time.sleep(rng.uniform(0.6, 4.0))
        alive = _of_runner(runner.pid)
        seen += len(alive)
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        deadline = time.monotonic() + 10
        while (left := _of_runner(runner.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left == []
        assert runner.stdout is not None
        runner.stdout.close()
    assert seen > KILLS, "the runners had no terminals to leave behind"
    assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts
    assert os.listdir(tmp_path) == []
