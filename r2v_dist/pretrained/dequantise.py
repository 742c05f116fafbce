"""From a GGUF file to a Hugging Face directory with bfloat16 safetensors:

    python -m r2v_dist.pretrained.dequantise GGUF_FILE FOLDER

Invariant: the tokenizer splits text as the model's own does, and a model whose head is its
embedding is saved with one matrix. Runs in a process of its own, because transformers brings torch,
and because it must not ask the hub for what a GGUF file lacks.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from r2v_dist.errors import RuntimeFailure
from r2v_dist.processes.child import child_command, child_environment

_DEADLINE_S = 3600.0
_SAME_MATRIX = 0.15
"""Largest relative difference of two copies of one matrix, each rounded to 4 bits or more. Matrices
that were trained apart differ by more than their own size."""


def dequantise(gguf: Path, folder: Path) -> None:
    """Write the model of `gguf` into `folder`. Raises RuntimeFailure where that fails; then nothing
    of the folder is left.
    """
    command = child_command("-m", "r2v_dist.pretrained.dequantise", str(gguf), str(folder))
    environment = child_environment() | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    live = sys.stderr.isatty()
    if not live:
        environment["TQDM_DISABLE"] = "1"
    try:
        child = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if live else subprocess.DEVNULL,
            encoding="utf-8",
            timeout=_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        shutil.rmtree(folder, ignore_errors=True)
        raise RuntimeFailure(f"{gguf} was not dequantised within {_DEADLINE_S:.0f} s") from None
    if child.returncode:
        shutil.rmtree(folder, ignore_errors=True)
    if child.returncode < 0:
        raise RuntimeFailure(
            f"dequantising {gguf} was ended by signal {-child.returncode}; it takes two to "
            f"four times the memory that the model has in bfloat16"
        )
    if child.returncode:
        lines = child.stdout.strip().splitlines() or ["it does not say why"]
        raise RuntimeFailure(f"{gguf} cannot be dequantised: {lines[-1]}")


def convert(gguf: Path, folder: Path) -> None:
    """As `dequantise`, in this process."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    _split_as_trained(tokenizer, gguf)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(**options, dequantize=True),
        **options,
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    _tie(model)
    model.save_pretrained(folder)
    for setting in ("is_local", "local_files_only"):  # how it was read here is nothing to keep
        tokenizer.init_kwargs.pop(setting, None)
    tokenizer.save_pretrained(folder)


def _tie(model: Any) -> None:
    """Have one matrix where the file holds the same one twice, in two formats. The head is kept: it
    has the finer format in such files.
    """
    import torch

    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if model.config.tie_word_embeddings or head.shape != embeddings.shape:
        return
    with torch.no_grad():
        difference = (head.float() - embeddings.float()).norm() / head.float().norm()
        if difference <= _SAME_MATRIX:
            embeddings.copy_(head)
            model.config.tie_word_embeddings = True
            model.tie_weights()


def _split_as_trained(tokenizer: Any, gguf: Path) -> None:
    """Transformers builds a GPT-2 tokenizer for these; what differs from it is not in the file."""
    from tokenizers import normalizers, pre_tokenizers
    from transformers.integrations.gguf import get_gguf_tokenizer

    _, settings, _ = get_gguf_tokenizer(str(gguf))
    kind = settings.get("pre_tokenizer_type")
    if kind == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    if kind == "qwen2":
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()


def main() -> None:
    """Convert what the arguments name; say in one line on standard output what went wrong."""
    gguf, folder = map(Path, sys.argv[1:])
    try:
        convert(gguf, folder)
    except Exception as error:  # a boundary: whatever a file of somebody else's makes of libraries
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        sys.exit(1)


if __name__ == "__main__":
    main()
