"""The SLM's last hidden states over an action, computed again with transformers from stored ids.

Invariant: a state is computed once. What is computed lies in a folder, a safetensors file a batch,
under a name made of the model's version and of the ids, so an interrupted computation goes on.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from r2v_dist.seeding import short_hash

Array = npt.NDArray[np.float64]

_BATCH_TOKENS = 2048
"""Tokens that are read at once, padding included."""


@dataclass(frozen=True)
class Reading:
    """A prompt and the action after it, as token ids of the model of this version."""

    version: str
    prompt_ids: tuple[int, ...]
    action_ids: tuple[int, ...]

    @property
    def key(self) -> str:
        """The name of its vectors."""
        return short_hash(self.version, self.prompt_ids, self.action_ids)

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.action_ids)


def hidden_states(
    model: Path, readings: Sequence[Reading], folder: Path, within_s: float
) -> dict[str, Array] | None:
    """By `Reading.key` [2, D]: the hidden state at the action's last token, and the mean over its
    tokens. None where the time did not suffice: the next call goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vectors = _stored(folder)
    wanted = {reading.key: reading for reading in readings}
    missing = [reading for key, reading in wanted.items() if key not in vectors]
    if missing:
        _compute(model, missing, folder, time.monotonic() + within_s)
        vectors = _stored(folder)
    left = sum(key not in vectors for key in wanted)
    print(f"hidden states: {len(wanted) - left} of {len(wanted)}", file=sys.stderr, flush=True)
    if left:
        return None
    return {key: vectors[key].astype(np.float64) for key in wanted}


def _stored(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        vectors |= load_file(path)
    return vectors


def _compute(model: Path, readings: Sequence[Reading], folder: Path, until: float) -> None:
    import torch
    from transformers import AutoModel

    network: Any = AutoModel.from_pretrained(model, dtype=torch.bfloat16).eval()
    for batch in batches(readings):
        if time.monotonic() > until:
            return
        with torch.inference_mode():
            rows = _read(network, batch)
        keys = [reading.key for reading in batch]
        path = folder / f"{keys[0]}.safetensors"
        scratch = path.with_suffix(".part")
        save_file(dict(zip(keys, rows, strict=True)), scratch)
        scratch.replace(path)


def batches(readings: Sequence[Reading]) -> Iterator[list[Reading]]:
    """Readings of similar length together; one that is longer than a batch is read alone."""
    batch: list[Reading] = []
    for reading in sorted(readings, key=len):
        if batch and (len(batch) + 1) * len(reading) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(reading)
    if batch:
        yield batch


def _read(network: Any, batch: Sequence[Reading]) -> list[npt.NDArray[np.float32]]:
    """[2, D] of every reading, in one pass. Padding stands behind the ids, where a causal model
    does not look.
    """
    import torch

    width = max(map(len, batch))
    ids_BT = torch.zeros((len(batch), width), dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, reading in enumerate(batch):
        ids = [*reading.prompt_ids, *reading.action_ids]
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, : len(ids)] = 1
    states_BTD = network(ids_BT, attention_mask=mask_BT).last_hidden_state.float()
    rows = []
    for states_TD, reading in zip(states_BTD, batch, strict=True):
        action_TD = states_TD[len(reading.prompt_ids) : len(reading)]
        rows.append(torch.stack([action_TD[-1], action_TD.mean(dim=0)]).numpy())
    return rows
