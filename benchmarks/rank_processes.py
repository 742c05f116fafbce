"""The ranks of a learner as processes of this machine, without Ray: what a rank learns does not
depend on who started it. They are forked from a process that has imported everything already, so
that a rank starts in a second.

Invariant: when `run` returns, none of the ranks is alive.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing import forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cluster.environment import PREEMPTION_WATCHER, of_rank

_PRELOADED = ["torch", "deepspeed", "transformers", "trl", "peft", "datasets", "accelerate"]
_PATIENCE_S = 400.0
_LOOK_EVERY_S = 0.02

_started = threading.Lock()


def run(ranks: int, loop: Callable[[], None], logs: Path, killed_after: Path | None = None) -> bool:
    """Run `loop` on every rank; what a rank prints is in a file of `logs`. Whether it ended by
    itself.

    Args:
        killed_after: the last rank is killed as soon as this path exists, and then the others.

    Raises RuntimeError with the end of a rank's log when one fails by itself.
    """
    logs.mkdir(parents=True, exist_ok=True)
    processes = _start(ranks, loop, logs)
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while any(process.exitcode is None for process in processes):
            if killed_after is not None and killed_after.exists():
                processes[-1].kill()
                return False
            if failed := _failed(processes):
                raise RuntimeError(f"rank {failed[0]} failed:\n{_end_of(logs, failed[0])}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no end within {_PATIENCE_S:g} s:\n{_end_of(logs, 0)}")
            time.sleep(_LOOK_EVERY_S)
    finally:
        for process in processes:
            process.kill()
            process.join()
    if failed := _failed(processes):
        raise RuntimeError(f"rank {failed[0]} failed:\n{_end_of(logs, failed[0])}")
    return True


def _start(ranks: int, loop: Callable[[], None], logs: Path) -> list[BaseProcess]:
    context = get_context("forkserver")
    with _started:
        context.set_forkserver_preload(_PRELOADED)
        before = dict(os.environ)
        os.environ.update(of_rank(1, on_gpu=False) | {PREEMPTION_WATCHER: "0"})
        forkserver.ensure_running()  # it keeps the environment that it begins with
        os.environ.clear()
        os.environ.update(before)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes: list[BaseProcess] = []
    for rank in range(ranks):
        process = context.Process(target=_rank, args=(rank, ranks, port, loop, logs))
        process.start()
        processes.append(process)
    return processes


def _rank(rank: int, ranks: int, port: int, loop: Callable[[], None], logs: Path) -> None:
    """What a rank's process does."""
    log = os.open(logs / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch.distributed

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    loop()
    torch.distributed.barrier()
    os._exit(0)  # threads of gloo may outlive their group


def _failed(processes: list[Any]) -> list[int]:
    return [rank for rank, process in enumerate(processes) if process.exitcode not in (None, 0)]


def _end_of(logs: Path, rank: int) -> str:
    return (logs / f"rank{rank}.log").read_text(encoding="utf-8", errors="replace")[-2000:]
