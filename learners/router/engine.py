"""Heads of the router and the DeepSpeed engine that trains them: parameters in float32, arithmetic
in float64.

A phase of training can be killed at any step and goes on from its last complete checkpoint, with
any number of ranks: parameters are not sharded. Checkpoints are safetensors and JSON; nothing is
unpickled.
"""

import atexit
import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from r2v_dist import files
from r2v_dist.errors import DamagedFile, RuntimeFailure, warn
from r2v_dist.router.model import Mlp
from r2v_dist.storage.metrics_log import append_metrics

_KEPT = 2


class Head(nn.Module):
    """An MLP with SiLU and one output, as r2v_dist.router.model runs it."""

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


def save_checkpoint(
    folder: Path, step: int, engine: Any, numbers: Mapping[str, float], best: Mapping[str, Tensor]
) -> None:
    """Publish parameters, optimizer moments, scalars and the best parameters so far by renaming.
    Call on the first rank.
    """
    tensors = {f"now.{name}": values for name, values in engine.module.state_dict().items()}
    tensors |= {f"best.{name}": values for name, values in best.items()}
    for index, parameter in enumerate(engine.module.parameters()):
        for name, values in engine.optimizer.state[parameter].items():
            tensors[f"adam.{index}.{name}"] = values
    target = folder / f"{step:06d}"
    scratch = folder / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    save_file(
        {name: values.detach().cpu().clone().contiguous() for name, values in tensors.items()},
        scratch / "state.safetensors",
    )
    (scratch / "numbers.json").write_text(json.dumps(dict(numbers)), encoding="utf-8")
    files.publish(scratch, target)
    for old in _checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, engine: Any) -> tuple[int, dict[str, float], dict[str, Tensor]]:
    """Step, scalars and best parameters of the last complete checkpoint, restored into the engine;
    step 0 where there is none.
    """
    found = next(filter(None, map(_read_checkpoint, reversed(_checkpoints(folder)))), None)
    if found is None:
        return 0, {}, {}
    step, numbers, tensors = found
    engine.module.load_state_dict(_under("now.", tensors))
    for index, parameter in enumerate(engine.module.parameters()):
        for name, values in _under(f"adam.{index}.", tensors).items():
            engine.optimizer.state[parameter][name] = (
                values if name == "step" else values.to(parameter.device)
            )
    return step, numbers, _under("best.", tensors)


def _read_checkpoint(folder: Path) -> tuple[int, dict[str, float], dict[str, Tensor]] | None:
    """Step, scalars and tensors; None for a damaged one: training goes on from the one before."""
    try:
        tensors = files.read_tensors(folder / "state.safetensors")
        numbers = files.read_json_object(folder / "numbers.json")
    except DamagedFile as error:
        warn(f"{error.path} {error.problem}: training goes on from an earlier checkpoint")
        return None
    return (
        int(folder.name),
        numbers,
        {name: torch.from_numpy(values) for name, values in tensors.items()},
    )


class Log:
    """The metrics of a stage, written by the first rank alone; steps that are trained again are
    logged again.
    """

    def __init__(self, path: Path, writes: bool, job: str, total: int) -> None:
        self._path = path
        self._writes = writes
        self._job = job
        self._total = total

    def forget_after(self, phase: str, step: int) -> None:
        """Drop this job's rows of a phase beyond a step."""
        if self._writes and self._path.is_file():
            rows = files.read_json_lines(self._path)
            kept = [
                row
                for row in rows
                if (row["router"], row["phase"]) != (self._job, phase) or row["step"] <= step
            ]
            files.write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def add(self, step: int, **values: Any) -> None:
        """One row."""
        if self._writes:
            append_metrics(
                self._path, {"router": self._job, "step": step, "of": self._total, **values}
            )


def to_numpy(values: Tensor) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A detached copy for numpy."""
    return values.detach().cpu().numpy()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name.isdigit())


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): values
        for name, values in tensors.items()
        if name.startswith(prefix)
    }
