"""Shapes of decoder language models: what a count of parameters, activations and cached keys needs.

A shape comes from a model's `config.json`, on disk or in the hub's cache, else from a table of
models by name. Nothing is loaded and nothing is fetched.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2v_dist.files import read_json_object

_DECODERS = {"gemma2", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"}
"""Model types that are built as this module counts."""


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped-query attention and a gated MLP."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    """Size of a head."""
    inner: int
    """Size inside the MLP."""
    vocabulary: int
    tied: bool = False
    """Whether the output layer is the embedding."""
    bias: int = 0
    """Biases of a layer's attention."""
    norms: int = 2
    """Norms of a layer with one weight per hidden unit."""
    head_norms: bool = False
    """Whether queries and keys have norms of their own."""
    kind: str = "llama"
    """Hugging Face's `model_type`."""

    @property
    def linear_sizes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's linear maps: q, k, v, o, gate, up, down."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        h, i = self.hidden, self.inner
        return [(h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h)]

    @property
    def layer_parameters(self) -> int:
        """Of one layer."""
        linear = sum(inputs * outputs for inputs, outputs in self.linear_sizes)
        norms = self.norms * self.hidden + (2 * self.head if self.head_norms else 0)
        return linear + norms + self.bias

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.hidden

    def lora_parameters(self, rank: int) -> int:
        """Of adapters on all linear maps of the layers: `rank` x (inputs + outputs) each."""
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.linear_sizes)


def _qwen2(
    hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocabulary: int, tied: bool
) -> Shape:
    head = hidden // heads
    bias = (heads + 2 * kv_heads) * head
    return Shape(hidden, layers, heads, kv_heads, head, inner, vocabulary, tied, bias, kind="qwen2")


KNOWN = {
    "smollm2-135m": Shape(576, 30, 9, 3, 64, 1536, 49_152, tied=True),
    "qwen2.5-0.5b": _qwen2(896, 24, 14, 2, 4864, 151_936, tied=True),
    "qwen2.5-1.5b": _qwen2(1536, 28, 12, 2, 8960, 151_936, tied=True),
    "qwen2.5-7b": _qwen2(3584, 28, 28, 4, 18_944, 152_064, tied=False),
    "qwen2.5-14b": _qwen2(5120, 48, 40, 8, 13_824, 152_064, tied=False),
    "qwen2.5-32b": _qwen2(5120, 64, 40, 8, 27_648, 152_064, tied=False),
    "qwen2.5-72b": _qwen2(8192, 80, 64, 8, 29_568, 152_064, tied=False),
    "qwen3-4b": Shape(
        2560, 36, 32, 8, 128, 9728, 151_936, tied=True, head_norms=True, kind="qwen3"
    ),
    "llama-3.1-8b": Shape(4096, 32, 32, 8, 128, 14_336, 128_256),
    "llama-3.1-70b": Shape(8192, 80, 64, 8, 128, 28_672, 128_256),
    "gemma-2-9b": Shape(3584, 42, 16, 8, 256, 14_336, 256_000, tied=True, norms=4, kind="gemma2"),
}
"""By a part of the model's name, in small letters."""


def shape_of(model: str) -> Shape | None:
    """The shape of a model by its directory or hub id; None for one that is not known here."""
    for folder in (Path(model).expanduser(), *_snapshots(model)):
        if (folder / "config.json").is_file():
            return _read(read_json_object(folder / "config.json"))
    name = model.lower().replace("coder-", "").replace("meta-llama-3.1", "llama-3.1")
    return next((shape for key, shape in KNOWN.items() if key in name), None)


def _snapshots(model: str) -> list[Path]:
    """Where the hub's cache has the model."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()
    return sorted(cache.glob(f"models--{model.replace('/', '--')}/snapshots/*"))


def _read(config: dict[str, Any]) -> Shape | None:
    kind = config.get("model_type")
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    if kind not in _DECODERS or not all(isinstance(config.get(name), int) for name in sizes):
        return None
    hidden, layers, heads, inner = (config[name] for name in sizes)
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    q_and_kv = (heads + 2 * kv_heads) * head
    bias = q_and_kv if kind == "qwen2" else 0
    if config.get("attention_bias"):
        bias = q_and_kv + hidden
    tied = bool(config.get("tie_word_embeddings", kind == "gemma2"))
    return Shape(
        hidden,
        layers,
        heads,
        kv_heads,
        head,
        inner,
        config["vocab_size"],
        tied,
        bias,
        4 if kind == "gemma2" else 2,
        kind == "qwen3",
        kind,
    )
