"""EvalPlus's own checker as the other side of a comparison, in a virtual environment of its own."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Mismatch
from envs.coding.benchmark_files import Dataset, data_file

_NAMES = {"humaneval_plus": "humaneval", "mbpp_plus": "mbpp"}


@dataclass(frozen=True)
class Theirs:
    """EvalPlus's verdicts on a list of solutions, in order, and how long they took."""

    passed: list[bool]
    said: list[str]
    seconds: float
    cpu_s: float


_LIMIT_S = 1.0
_GENEROUS_LIMIT_S = 20.0
"""What a call may take at least, by the clock: EvalPlus's own, and one that a busy machine does not
reach.
"""
_GENEROUS_BYTES = 16 << 30
"""EvalPlus's own is 4 GiB, of which its process takes most for the expected outputs of all MBPP+
tasks.
"""


def _contained(cache: Path) -> list[str]:
    """Before a command: no network, no other process in sight, nothing to write to but the cache
    and what ends with it.
    """
    seen = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/dev/shm"]
    written = ["--tmpfs", "/var/tmp", "--bind", str(cache), str(cache)]
    return ["bwrap", *seen, *written, "--unshare-all", "--die-with-parent", "--new-session"]


def evalplus_verdicts(
    python: str,
    dataset: Dataset,
    solutions: Sequence[tuple[str, str]],
    parallel: int,
    cache: Path,
    generous: bool = False,
    timeout_s: float = 3600.0,
    sanitize: bool = False,
) -> Theirs:
    """Verdicts on (task id, program) pairs. `python` belongs to an environment with evalplus 0.3.1;
    `cache` keeps its ground truth.

    EvalPlus limits calls by the clock, and memory with all that its own process holds: `generous`
    is for comparing answers where right programs would fail by that. The programs run without a
    sandbox, as EvalPlus runs them: give it none that you would not run yourself. With `sanitize`
    they are whole answers of a model, which EvalPlus's sanitiser reads first, and all of it runs
    inside bubblewrap.
    """
    driver = str(Path(__file__).with_name("evalplus_driver.py"))
    lines = [json.dumps({"task_id": name, "solution": code}) + "\n" for name, code in solutions]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.expanduser()), "PYTHONHASHSEED": "0"}
    limit = _LIMIT_S
    if generous:
        environment["EVALPLUS_MAX_MEMORY_BYTES"] = str(_GENEROUS_BYTES)
        limit = _GENEROUS_LIMIT_S
    arguments = [_NAMES[dataset], str(data_file(dataset)), str(parallel), str(limit)]
    if sanitize:
        arguments.append("sanitize")
        environment |= {"TMPDIR": "/var/tmp", "HOME": "/var/tmp"}
    contained = _contained(cache.expanduser()) if sanitize else []
    completed = subprocess.run(
        [*contained, python, "-W", "ignore", driver, *arguments],
        input="".join(lines),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=environment,
        encoding="utf-8",
    )
    if completed.returncode:
        raise Mismatch(f"evalplus failed: {completed.stderr.strip()[-500:]}")
    *rows, last = [json.loads(line) for line in completed.stdout.splitlines()]
    if len(rows) != len(solutions):
        raise Mismatch(f"evalplus gave {len(rows)} verdicts on {len(solutions)} solutions")
    said = [f"base {row['base']}, plus {row['plus']}" for row in rows]
    return Theirs([row["passed"] for row in rows], said, last["seconds"], last["cpu_seconds"])
