"""GPU memory by arithmetic: of a learner's rank, and of an engine. Bytes throughout.

Sources of the formulas:
* states of a rank: Rajbhandari et al., ZeRO (2020), section 3, with the constants of DeepSpeed's
  `estimate_zero2_model_states_mem_needs` and `estimate_zero3_...`: in bfloat16 18 bytes a trained
  parameter are shared out among the ranks (2 or 4 of gradients in both precisions, 12 of Adam and
  its copy of the parameters), and 2 more stay on every rank below ZeRO-3;
* buffers: DeepSpeed's defaults `reduce_bucket_size`, `allgather_bucket_size` (5e8 values) and
  `stage3_max_live_parameters` (1e9);
* activations: the method of Korthikanti et al., Reducing Activation Recomputation (2022), section
  4.1, counted for a decoder with RMS norms, grouped-query attention that keeps no scores, and a
  gated MLP: what autograd keeps for the backward pass;
* keys and values: 2 x layers x kv heads x head size, a token.
"""

from dataclasses import dataclass

from cluster.architectures import Shape

GIB = 2**30
CONTEXT = int(1.5 * GIB)
"""Of a GPU, for the CUDA context, communication, and what the allocator cannot use."""
_BUCKET = 500_000_000
_LIVE = 1_000_000_000
_ADAM = 12
"""Bytes of a trained parameter: Adam's two moments and a float32 copy."""
_ADAM_IN_PLACE = 8
"""The same without the copy: float32 parameters without ZeRO."""
_BATCHED_TOKENS = 8192
"""vLLM's default limit of tokens in a step of an engine, on large GPUs."""


@dataclass(frozen=True)
class Setup:
    """How a model is trained. A micro batch has `rows` of `tokens`; the output layer computes
    `logits` positions of it (0 for a model with a scalar head).
    """

    shape: Shape
    rows: int
    tokens: int
    logits: int
    value_bytes: int = 2
    ranks: int = 1
    stage: int = 2
    lora: int | None = None
    lora_dropout: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False
    second_copy_over: int = 1
    checkpointing: bool = False

    @property
    def trained(self) -> int:
        """Parameters with gradients."""
        if self.lora is None:
            return self.shape.parameters
        return self.shape.lora_parameters(self.lora)

    @property
    def all_parameters(self) -> int:
        """Parameters in memory, those of adapters included."""
        return self.shape.parameters + (0 if self.lora is None else self.trained)


@dataclass(frozen=True)
class RankMemory:
    """What a rank holds on its GPU at the peak of a step, and beside it in the machine's memory."""

    parameters: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    host: int

    @property
    def total(self) -> int:
        """On the GPU."""
        states = self.parameters + self.gradients + self.optimizer
        return states + self.buffers + self.activations


def of_rank(setup: Setup) -> RankMemory:
    """The memory of one rank."""
    e, ranks, stage = setup.value_bytes, setup.ranks, setup.stage
    parameters = e * setup.all_parameters // (ranks if stage == 3 else 1)
    if setup.second_copy_over > 1:
        parameters += e * setup.all_parameters // setup.second_copy_over
    gradients, optimizer = _learning_states(setup)
    host = 0
    if setup.offload_optimizer:
        host += (4 + _ADAM) * setup.trained // ranks
        gradients, optimizer = (e * setup.trained if stage == 1 else 0), 0
    if setup.offload_parameters:
        host += parameters
        parameters = 0
    buffers = _buffers(setup)
    return RankMemory(parameters, gradients, optimizer, buffers, activations(setup), host)


def _learning_states(setup: Setup) -> tuple[int, int]:
    """Gradients and optimizer."""
    e, trained, ranks = setup.value_bytes, setup.trained, setup.ranks
    match setup.stage:
        case 0 if e == 4:
            return 4 * trained, _ADAM_IN_PLACE * trained
        case 0:
            return (e + 4) * trained, _ADAM * trained
        case 1:
            return e * trained + 4 * trained // ranks, _ADAM * trained // ranks
        case 2:
            return (e + 4) * trained // ranks, _ADAM * trained // ranks
        case _:
            return 4 * trained // ranks, _ADAM * trained // ranks


def _buffers(setup: Setup) -> int:
    bucket = min(_BUCKET, setup.trained)
    if setup.stage == 3:
        gathered_values = min(_LIVE, setup.all_parameters) if setup.ranks > 1 else 0
        return setup.value_bytes * (gathered_values + bucket)
    return setup.value_bytes * bucket * (2 if setup.stage else 1)


def activations(setup: Setup) -> int:
    """What the backward pass needs, at its largest: at the output layer."""
    layer = layer_activations(setup)
    shape, positions = setup.shape, setup.rows * setup.tokens
    last_norm = positions * (4 + 2 * setup.value_bytes) * shape.hidden
    layers_total = shape.layers * layer
    if setup.checkpointing:  # the inputs of all layers, and one layer computed again
        layers_total = shape.layers * setup.value_bytes * positions * shape.hidden + layer
    # Logits, their float32 copy, its log-softmax, and the gradient.
    copy = 4 if setup.value_bytes == 2 else 0
    head = setup.logits * shape.vocabulary * (setup.value_bytes + copy + 4 + 4)
    return layers_total + last_norm + head


def layer_activations(setup: Setup) -> int:
    """What autograd keeps of one layer: for every norm its input in float32, the normalised values
    and its output; q, k, v, the attention's output and a number for each of its rows; gate, its
    activation, up, and their product. Adapters keep a masked copy of every input.
    """
    shape, e = setup.shape, setup.value_bytes
    q, kv = shape.heads * shape.head, shape.kv_heads * shape.head
    norms = shape.norms * (4 + 2 * e) * shape.hidden
    norms += (4 + e) * (q + kv) if shape.head_norms else 0
    attention = e * (2 * q + 2 * kv) + 4 * shape.heads
    mlp = 4 * e * shape.inner
    adapters = 0
    if setup.lora is not None:
        mask = 1 if setup.lora_dropout else 0
        copy = e if setup.lora_dropout else 0
        inputs = sum(size for size, _ in shape.linear_sizes)
        adapters = (copy + mask) * inputs + 7 * e * setup.lora
    return setup.rows * setup.tokens * (norms + attention + mlp + adapters)


@dataclass(frozen=True)
class EngineMemory:
    """What an engine holds on each of its GPUs. `cached_tokens` are all that its key-value cache
    has room for; 0 where the weights leave none.
    """

    weights: int
    working: int
    cache: int
    cached_tokens: int


def kv_bytes(shape: Shape, value_bytes: int, tensor_parallel: int = 1) -> int:
    """Keys and values of one token, on each GPU."""
    heads = -(-shape.kv_heads // tensor_parallel)  # a head is held by several GPUs, never divided
    return 2 * shape.layers * heads * shape.head * value_bytes


def of_engine(
    shape: Shape, value_bytes: int, tensor_parallel: int, sequences: int, room: int
) -> EngineMemory:
    """The memory of one engine that may take `room` bytes of each GPU, with at most `sequences` at
    once.
    """
    weights = value_bytes * shape.parameters // tensor_parallel
    inner = 2 * shape.inner // tensor_parallel + 2 * shape.hidden
    sampler = 2 * 4 * sequences * shape.vocabulary
    working = value_bytes * _BATCHED_TOKENS * inner + sampler
    cache = max(0, room - weights - working)
    return EngineMemory(
        weights, working, cache, cache // kv_bytes(shape, value_bytes, tensor_parallel)
    )
