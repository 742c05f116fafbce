"""Heads of the router and the DeepSpeed engine that trains them: parameters in float32, arithmetic
in float64.

A router that is killed while it trains starts again, and ends as the same router: everything that
is drawn comes from its seed. Training is too short for checkpoints of its own.
"""

import atexit
import json
import os
import socket
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from r2v_dist import files
from r2v_dist.errors import RuntimeFailure
from r2v_dist.router.mlp import Mlp
from r2v_dist.storage.metrics_log import append_metrics


class Head(nn.Module):
    """An MLP with SiLU and one output, as r2v_dist.router.mlp runs it."""

    def __init__(self, inputs: int, hidden: Sequence[int], seed: int) -> None:
        super().__init__()
        sizes = [inputs, *hidden, 1]
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = fan_in**-0.5
            self.weights.append(
                nn.Parameter((torch.rand(fan_out, fan_in, generator=generator) * 2 - 1) * bound)
            )
            self.biases.append(nn.Parameter(torch.zeros(fan_out)))

    def forward(self, x_NI: Tensor) -> Tensor:
        """Logits [N], in float64: sums over many states must not depend on how the ranks share
        them.
        """
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x_NI = nn.functional.linear(x_NI, weight.double(), bias.double())
            if i < last:
                x_NI = nn.functional.silu(x_NI)
        return x_NI[:, 0]

    def exported(self) -> Mlp:
        """The same function for numpy."""
        pairs = zip(self.weights, self.biases, strict=True)
        return Mlp(
            tuple(
                (w.detach().cpu().double().numpy().copy(), b.detach().cpu().double().numpy().copy())
                for w, b in pairs
            )
        )


def start_communication() -> torch.device:
    """Join the ranks (gloo on CPU machines) and return this rank's device."""
    import deepspeed
    import deepspeed.ops

    cuda = torch.cuda.is_available()
    if not cuda:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
            False  # would compile at run time; gloo does the work
        )
    deepspeed.init_distributed(
        dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False, verbose=False
    )
    return torch.device(deepspeed.get_accelerator().current_device_name())


def be_the_only_rank(threads: int) -> None:
    """Make this process a group of one rank, for the life of the process; nothing where it is in a
    group already.
    """
    if torch.distributed.is_initialized():
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(threads)
    start_communication()
    atexit.register(torch.distributed.destroy_process_group)


def start_engine(module: nn.Module, learning_rate: float, weight_decay: float) -> Any:
    """A DeepSpeed engine around a module whose loss is over the full batch. Call on every rank."""
    import deepspeed

    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "zero_optimization": {"stage": 0},
        },
    )
    if type(engine).__name__ != "DeepSpeedEngine":
        raise RuntimeFailure(
            f"trained with {type(engine).__name__} where DeepSpeedEngine was asked for"
        )
    return engine


class Log:
    """The metrics of a stage, written by the first rank alone. A job that is started again is
    logged again, never twice. `require` raises where nothing may be written any more.
    """

    def __init__(
        self, path: Path, writes: bool, job: str, total: int, require: Callable[[], None]
    ) -> None:
        self._path = path
        self._require = require
        self._writes = writes
        self._job = job
        self._total = total
        if writes and path.is_file():
            rows = files.read_json_lines(path)
            lines = [json.dumps(row) + "\n" for row in rows if row["router"] != job]
            files.write_atomically(path, "".join(lines))

    def add(self, step: int, **values: Any) -> None:
        """One row."""
        if self._writes:
            self._require()
            append_metrics(
                self._path, {"router": self._job, "step": step, "of": self._total, **values}
            )


def to_numpy(values: Tensor) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A detached copy for numpy."""
    return values.detach().cpu().numpy()
