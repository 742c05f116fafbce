"""A GGUF file becomes a directory that transformers loads like any other."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Format
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from r2v_dist.errors import RuntimeFailure
from r2v_dist.pretrained.dequantise import convert, dequantise
from tests.gguf_files import TEMPLATE, matrix, small_gguf


def as_stored(weight: np.ndarray, form: Format) -> torch.Tensor:
    rounded = dequantize(quantize(weight.astype(np.float32), form), form)
    return torch.from_numpy(rounded).bfloat16()


@pytest.mark.parametrize("stored", ["once", "twice", "another"])
def test_a_head_that_is_the_embedding_is_saved_once(stored: str, tmp_path: Path) -> None:
    embedding = matrix(0)
    head = {"once": None, "twice": embedding, "another": matrix(1)}[stored]
    source = small_gguf(tmp_path / "model.gguf", "qwen2", "qwen2", head, embedding)
    convert(source, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["tie_word_embeddings"] == (stored != "another")
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    inner, outer = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    finest = as_stored(embedding, Format.Q8_0 if stored == "twice" else Format.Q5_0)
    assert torch.equal(inner, finest)
    assert (outer is inner) == (stored != "another")
    if stored == "another":
        assert torch.equal(outer, as_stored(matrix(1), Format.Q8_0))


def test_text_is_split_as_the_model_has_learned_it(tmp_path: Path) -> None:
    """SmolLM2 splits off each digit before anything else, which a GPT-2 tokenizer does not."""
    source = small_gguf(tmp_path / "model.gguf", "llama", "smollm", None, matrix(0))
    convert(source, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("x  1<|end|>")) == [
        "x",
        "ĠĠ",
        "1",
        "<|end|>",
    ]
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.chat_template == TEMPLATE
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert "local_files_only" not in settings


@pytest.mark.slow
def test_a_process_of_its_own_converts_and_says_what_it_cannot(tmp_path: Path) -> None:
    source = small_gguf(tmp_path / "model.gguf", "llama", "smollm", None, matrix(0))
    dequantise(source, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    source.write_bytes(source.read_bytes()[:-4096])
    with pytest.raises(RuntimeFailure, match=r"model\.gguf cannot be dequantised: \w+") as why:
        dequantise(source, tmp_path / "half")
    assert "\n" not in str(why.value)
    assert not (tmp_path / "half").exists()
