"""The arithmetic of memory against published counts, arithmetic by hand, and what autograd keeps of
models that really run.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.architectures import KNOWN, Shape, shape_of
from cluster.memory import Setup, activations, kv_bytes, layer_activations, of_engine, of_rank
from tests.runs import ROOT

SEVEN = KNOWN["qwen2.5-7b"]
PUBLISHED = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "gemma-2-9b": 9_241_705_984,
}


def test_parameters_are_those_that_the_models_have() -> None:
    assert {name: KNOWN[name].parameters for name in PUBLISHED} == PUBLISHED
    tiny = ROOT / "models" / "textworld-tiny"
    header = (tiny / "model.safetensors").read_bytes()
    tensors = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    tensors.pop("__metadata__", None)
    ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
    shape = shape_of(str(tiny))
    assert shape is not None
    assert shape.parameters == max(ends) / 2  # bfloat16


def test_a_model_is_known_by_its_name_and_by_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert shape_of("Qwen/Qwen2.5-Coder-14B-Instruct") == KNOWN["qwen2.5-14b"]
    assert shape_of("meta-llama/Meta-Llama-3.1-8B-Instruct") == KNOWN["llama-3.1-8b"]
    assert shape_of("someone/else") is None
    snapshot = tmp_path / "hub" / "models--someone--else" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 9}
    config |= {"model_type": "llama", "intermediate_size": 128}
    (snapshot / "config.json").write_text(json.dumps(config))
    assert shape_of("someone/else") == Shape(64, 2, 4, 4, 16, 128, 9)
    (snapshot / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    assert shape_of("someone/else") is None


@pytest.mark.parametrize(
    ("ranks", "stage", "a_parameter"),
    [(1, 0, 2 + 6 + 12), (8, 1, 2 + 2 + 4 / 8 + 12 / 8), (8, 2, 2 + 18 / 8), (8, 3, 18 / 8)],
)
def test_states_of_a_rank_are_deepspeeds_bytes_a_parameter(
    ranks: int, stage: int, a_parameter: float
) -> None:
    rank = of_rank(Setup(SEVEN, 1, 16, 16, ranks=ranks, stage=stage))
    states = rank.parameters + rank.gradients + rank.optimizer
    assert states == pytest.approx(a_parameter * PUBLISHED["qwen2.5-7b"], rel=1e-6)
    assert rank.host == 0


def test_what_is_offloaded_lies_beside_the_gpu() -> None:
    setup = Setup(SEVEN, 1, 16, 16, ranks=4, stage=3, offload_optimizer=True)
    rank = of_rank(setup)
    assert (rank.gradients, rank.optimizer) == (0, 0)
    assert rank.host == 16 * SEVEN.parameters // 4
    both = of_rank(Setup(SEVEN, 1, 16, 16, 2, 4, 3, None, False, True, True))
    assert both.parameters == 0
    assert both.host == pytest.approx(18 * SEVEN.parameters / 4)


def test_adapters_alone_have_gradients_and_a_second_copy_costs_its_share() -> None:
    adapters = (
        28
        * 32
        * (
            (3584 + 3584) * 2 + (3584 + 512) * 2 + (3584 + 18944) * 3  # q and o, k and v, the MLP
        )
    )
    assert SEVEN.lora_parameters(32) == adapters
    rank = of_rank(Setup(SEVEN, 1, 16, 16, ranks=8, stage=3, lora=32))
    assert rank.optimizer == 12 * adapters // 8
    assert rank.parameters == 2 * (SEVEN.parameters + adapters) // 8
    copied = of_rank(Setup(SEVEN, 1, 16, 16, ranks=8, stage=3, lora=32, second_copy_over=4))
    assert copied.parameters == 3 * rank.parameters


def test_an_engine_has_weights_and_a_cache() -> None:
    assert kv_bytes(SEVEN, 2) == 2 * 28 * 4 * 128 * 2  # 56 KiB a token
    assert kv_bytes(SEVEN, 2, tensor_parallel=2) == 28 * 1024
    assert kv_bytes(SEVEN, 2, tensor_parallel=8) == 14 * 1024  # a head on two GPUs each
    engine = of_engine(SEVEN, 2, 1, 256, 60 * 2**30)
    assert engine.weights == 2 * SEVEN.parameters
    assert engine.weights + engine.working + engine.cache == 60 * 2**30
    assert engine.cached_tokens == engine.cache // (56 * 1024)
    assert of_engine(SEVEN, 2, 1, 256, 10 * 2**30).cached_tokens == 0


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Gemma2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps(name: str, precision: str, tmp_path: Path) -> None:
    import torch
    import transformers

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 1024, "vocab_size": 512}
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = getattr(transformers, f"{name}ForCausalLM")(config).to(getattr(torch, precision))
    config.save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    assert shape is not None
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    ids = torch.randint(0, 512, (2, 256))
    log_softmax = 4 * 512 * ids.numel()
    setup = Setup(shape, 2, 256, logits=0, value_bytes=getattr(torch, precision).itemsize)
    said = activations(setup) + log_softmax
    assert said == pytest.approx(kept_by(model, ids), rel=0.08)


def kept_by(model: Any, ids: Any) -> int:
    """Bytes that the backward pass of a loss needs, apart from the model's parameters."""
    import torch

    kept: dict[int, int] = {}
    alive = []
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is given twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, labels=ids)
    return sum(kept.values())


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    plain = Setup(SEVEN, 2, 1024, 0)
    checkpointed = Setup(SEVEN, 2, 1024, 0, checkpointing=True)
    inputs = 28 * 2 * 2 * 1024 * 3584
    last_norm = 2 * 1024 * 8 * 3584
    assert activations(checkpointed) == inputs + layer_activations(plain) + last_norm
    assert activations(plain) == 28 * layer_activations(plain) + last_norm
