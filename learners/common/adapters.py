"""LoRA adapters as files: several in a row as one, and weights with an adapter added.

Invariant: an adapter that is published here has a scale of one, so that its weights say everything,
and belongs to a model that lies on disk. Weights are merged a file at a time, so that nobody ever
holds a whole model.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2v_dist import files
from r2v_dist.errors import RuntimeFailure
from r2v_dist.object_storage.mirror import COMPLETE
from r2v_dist.storage.checkpoints import ADAPTER, Checkpoint
from r2v_dist.storage.fence import Fence

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def stack(adapters: Sequence[Path], base: Path, output: Path) -> None:
    """Write into `output` the adapter to `base` that does what these adapters do together. They
    adapt the same layers; a rank is the sum of theirs. Raises RuntimeFailure where they do not.
    """
    import torch
    from safetensors.torch import save_file

    parts = [_scaled(adapter) for adapter in adapters]
    if any(part.keys() != parts[0].keys() for part in parts):
        raise RuntimeFailure(f"{adapters[-1]}: it adapts other layers than {adapters[0]}")
    stacked = {
        name: torch.cat([part[name] for part in parts], dim=0 if name.endswith(_DOWN) else 1)
        for name in parts[0]
    }
    settings = files.read_json_object(adapters[-1] / ADAPTER)
    rank = sum(int(files.read_json_object(adapter / ADAPTER)["r"]) for adapter in adapters)
    settings |= {"r": rank, "lora_alpha": rank, "base_model_name_or_path": str(base.resolve())}
    settings |= {"inference_mode": True, "use_rslora": False}
    save_file({name: tensor.contiguous() for name, tensor in stacked.items()}, output / _WEIGHTS)
    files.write_atomically(output / ADAPTER, json.dumps(settings, indent=1) + "\n")


def own_adapter(folder: Path, base: str, below: str = "") -> None:
    """Have a folder into which PEFT has just saved say what its adapter belongs to; without an
    adapter it is left alone. To be run before the folder is published.

    Args:
        below: the directory of an adapter to `base` that was part of the weights in training.
    """
    if (folder / ADAPTER).is_file():
        stack([Path(below), folder] if below else [folder], Path(base), folder)


def whole(checkpoint: Checkpoint, dtype: str, fence: Fence | None = None) -> str:
    """A directory with all weights of a checkpoint: its own, or where it is an adapter a merged
    copy beside it, made when it is first asked for.

    Args:
        dtype: the precision of the copy, by torch's name; `auto` for the model's own.
        fence: the driver's right to write; None where nobody else may write there.

    Raises Superseded where another driver has taken over, before a copy is published.
    """
    if not checkpoint.adapter:
        return checkpoint.path
    adapter = Path(checkpoint.adapter)
    output = adapter.with_name(f"{adapter.name}-merged-{checkpoint.version}-{dtype}")
    if not output.is_dir():
        epoch = 0 if fence is None else fence.epoch
        scratch = output.with_name(f"{output.name}.{epoch}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        merge(Path(checkpoint.path), adapter, scratch, dtype)
        if fence is not None:
            fence.require()
        files.publish(scratch, output)
    return str(output)


def merge(base: Path, adapter: Path, output: Path, dtype: str = "auto") -> None:
    """Write a plain Hugging Face directory whose weights are those of `base` and the adapter's.

    Raises RuntimeFailure where the adapter adapts what `base` does not have.
    """
    from safetensors.torch import save_file

    deltas = dict(_factors(_scaled(adapter)))
    ignore = shutil.ignore_patterns("*.safetensors", "*.bin", "*.md", COMPLETE)
    shutil.copytree(base, output, ignore=ignore)
    for shard in sorted(base.glob("*.safetensors")):
        tensors = dict(_merged(shard, deltas, dtype))
        save_file(tensors, output / shard.name, metadata={"format": "pt"})
    if deltas:
        raise RuntimeFailure(
            f"{adapter}: it adapts {min(deltas)}, which {base} does not have under this name"
        )
    for path in adapter.iterdir():  # the tokenizer that the adapter was trained with
        if path.name not in (ADAPTER, _WEIGHTS, COMPLETE) and path.is_file():
            shutil.copy2(path, output / path.name)
    _say_precision(output, dtype)


def _merged(
    shard: Path, deltas: "dict[str, tuple[Tensor, Tensor]]", dtype: str
) -> "Iterator[tuple[str, Tensor]]":
    """The tensors of a file with what the adapter adds to them; each is taken from `deltas`."""
    import torch
    from safetensors import safe_open

    with safe_open(shard, framework="pt") as tensors:
        for name in list(tensors.keys()):
            tensor = tensors.get_tensor(name)
            precision = tensor.dtype if dtype == "auto" else getattr(torch, dtype)
            if (factors := deltas.pop(name, None)) is not None:
                down, up = factors
                tensor = tensor.float() + up.float() @ down.float()
            yield name, tensor.to(precision)


def _scaled(adapter: Path) -> "dict[str, Tensor]":
    """The weights of an adapter, its scale with those that lead up."""
    from safetensors.torch import load_file

    settings = files.read_json_object(adapter / ADAPTER)
    for unlike in ("fan_in_fan_out", "rank_pattern", "alpha_pattern"):
        if settings.get(unlike):
            raise RuntimeFailure(f"{adapter}: it has {unlike}, and cannot be merged")
    divisor = settings["r"] ** (0.5 if settings.get("use_rslora") else 1.0)
    scale = settings["lora_alpha"] / divisor
    weights = load_file(adapter / _WEIGHTS)
    if strange := [name for name in weights if not name.endswith((_DOWN, _UP))]:
        raise RuntimeFailure(f"{adapter}: {strange[0]} is no part of a LoRA adapter")
    return {
        name: tensor * scale if name.endswith(_UP) else tensor for name, tensor in weights.items()
    }


def _factors(weights: "dict[str, Tensor]") -> "Iterator[tuple[str, tuple[Tensor, Tensor]]]":
    """What is added to each tensor of the model, as two factors."""
    for name, down in weights.items():
        if name.endswith(_DOWN):
            layer = name.removesuffix(_DOWN)
            yield f"{layer.removeprefix(_PREFIX)}.weight", (down, weights[layer + _UP])


def _say_precision(output: Path, dtype: str) -> None:
    if dtype == "auto":
        return
    path = output / "config.json"
    settings: dict[str, Any] = files.read_json_object(path)
    settings.pop("torch_dtype", None)
    files.write_atomically(path, json.dumps(settings | {"dtype": dtype}, indent=2) + "\n")
