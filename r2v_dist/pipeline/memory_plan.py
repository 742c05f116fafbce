"""What `--dry-run` says of GPU memory: the arithmetic of cluster.memory for the configured models,
and for shapes from 0.5B to 70B. It prints what GPUs would hold, whether there are any or not.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from cluster.architectures import KNOWN, Shape, shape_of
from cluster.memory import CONTEXT, GIB, Setup, kv_bytes, of_engine, of_rank
from learners.common.packing import SHARING_ARCHITECTURES
from r2v_dist.config.learners import DPOConfig, LearnerConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.config.run import RunConfig

_SIZES = (24, 48, 80, 141)
"""GiB of common GPUs."""
_USUAL = 80
_MOST_GPUS = 1024
_SHAPES = {"0.5B": "qwen2.5-0.5b", "7B": "qwen2.5-7b", "14B": "qwen2.5-14b", "70B": "llama-3.1-70b"}
_ROW = 4096
SCRATCH = Path(__file__).parents[2] / "models" / "textworld-tiny"
_COLUMNS = ("parameters", "gradients", "optimizer", "buffers", "activations", "total")


def memory_plan(config: RunConfig) -> str:
    """Lines that begin with `#`, without a line break at the end: engines, learners, shapes."""
    lines = ["# memory of each GPU where models run on GPUs, in GiB, by arithmetic"]
    return "\n".join([*lines, *_engines(config), *_learners(config), *_shapes()])


def disk_gib(config: RunConfig) -> float:
    """What checkpoints take, in GiB; models of unknown shape count nothing.

    Every training seed keeps what its learners publish. While one trains it has two checkpoints and
    writes a third, each with the optimizer and with the weights twice: by DeepSpeed and by Hugging
    Face.
    """
    published_bytes, training_bytes = 0, 0
    for _, model, learner in trained(config):
        shape = _shape(model)
        if shape is None:
            continue
        setup = _setup(shape, learner, config)
        weights = setup.value_bytes * setup.all_parameters
        published_bytes += setup.value_bytes * shape.parameters
        training_bytes = max(training_bytes, 3 * (2 * weights + 12 * setup.trained))
    return (config.training_seeds * published_bytes + training_bytes) / GIB


def _engines(config: RunConfig) -> Iterator[str]:
    for role, model, adapter in (
        ("slm", config.slm, config.adapter_rank),
        ("teacher", config.teacher, 0),
    ):
        if model.backend == "vllm":
            yield _engine(role, model, adapter)


def _learners(config: RunConfig) -> Iterator[str]:
    learners = list(trained(config))
    if learners:
        yield f"# {'':<34}" + "".join(f"{name:>12}" for name in _COLUMNS) + "   fits GPUs"
    for name, model, learner in learners:
        yield _learner(name, model, learner, config)


def trained(config: RunConfig) -> Iterator[tuple[str, str, LearnerConfig]]:
    """The learners of language models, with the model that each begins from."""
    if config.slm.backend != "vllm":
        return
    verifier = config.verifier
    if config.bc is not None:
        yield "bc", config.slm.model, config.bc
    if verifier is not None and verifier.kind == "trained":
        yield "verifier", verifier.model or config.slm.model, verifier.training
    if config.dpo is not None:
        yield "dpo", config.slm.model, config.dpo


def _engine(role: str, model: ModelConfig, adapter: int) -> str:
    """Weights with an adapter of that rank, what a step works with, and a cache for one whole
    context at least.
    """
    name = f"{role} engine, {model.tensor_parallel} GPU{'s' * (model.tensor_parallel > 1)}"
    shape = _shape(model.model)
    if shape is None:
        return _unknown(name, model.model)
    value_bytes = 4 if model.dtype == "float32" else 2
    adapter_bytes = value_bytes * shape.lora_parameters(adapter) // model.tensor_parallel
    room = int(_USUAL * GIB * model.gpu_memory_utilization) - adapter_bytes
    memory = of_engine(shape, value_bytes, model.tensor_parallel, model.max_num_seqs, room)
    context = model.max_model_len * kv_bytes(shape, value_bytes, model.tensor_parallel)
    contexts = memory.cached_tokens // model.max_model_len
    parts = (memory.weights + adapter_bytes, memory.working, context)
    weights, working, cache = (f"{part / GIB:.2f}" for part in parts)
    return (
        f"# {name:<34}weights {weights}, a step {working}, cache {cache} for a context of "
        f"{model.max_model_len} tokens: {_fits(sum(parts))}; {contexts} contexts in "
        f"{model.gpu_memory_utilization:g} of {_USUAL} GiB"
    )


def _learner(name: str, model: str, learner: LearnerConfig, config: RunConfig) -> str:
    deepspeed = learner.deepspeed
    kind = "full" if learner.lora is None else f"LoRA {learner.lora.r}"
    name = f"{name}, ZeRO-{deepspeed.zero_stage} x {deepspeed.ranks}, {kind}"
    shape = _shape(model)
    if shape is None:
        return _unknown(name, model)
    memory = of_rank(_setup(shape, learner, config))
    states = (memory.parameters, memory.gradients, memory.optimizer)
    values = (*states, memory.buffers, memory.activations, memory.total)
    cells = "".join(f"{value / GIB:>12.2f}" for value in values)
    beside = f"; and {memory.host / GIB:.1f} off the GPU" if memory.host else ""
    return f"# {name:<34}{cells}   {_fits(memory.total)}{beside}"


def _setup(shape: Shape, learner: LearnerConfig, config: RunConfig) -> Setup:
    """A micro batch at its largest. For DPO an example is two answers, to one prompt where the
    model can share it, and for consistency a second view with one.
    """
    rows = learner.micro_batch_size
    logits = rows * learner.max_length
    if isinstance(learner, DPOConfig):
        answers = 3 if learner.beta_c else 2
        logits = rows * answers * (config.slm.sampling.max_tokens + 1)
        shares = shape.kind in SHARING_ARCHITECTURES and learner.attention in ("auto", "sdpa")
        rows *= answers - 1 if shares else answers
    elif learner is not config.bc:
        logits = 0  # a verifier has a scalar head
    deepspeed = learner.deepspeed
    return Setup(
        shape,
        rows,
        learner.max_length,
        logits,
        2 if learner.bf16 else 4,
        deepspeed.ranks,
        deepspeed.zero_stage,
        learner.lora.r if learner.lora else None,
        bool(learner.lora and learner.lora.dropout),
        deepspeed.offload_optimizer != "none",
        deepspeed.offload_parameters != "none",
        deepspeed.zero_hpz_partition_size,
        learner.gradient_checkpointing,
    )


def _shape(model: str) -> Shape | None:
    return shape_of(str(SCRATCH) if model == "scratch" else model)


def _unknown(name: str, model: str) -> str:
    return f"# {name:<34}{model}: its shape is not known here"


def _fits(total: int) -> str:
    size = next((size for size in _SIZES if total + CONTEXT <= size * GIB), None)
    return f"NONE of {_SIZES[0]} to {_SIZES[-1]} GiB" if size is None else f"from {size} GiB"


def _shapes() -> Iterator[str]:
    """What shapes need, in bfloat16."""
    yield (
        f"# GPUs of {_USUAL} GiB, at least; in bfloat16, learners with ZeRO-3, checkpointing and "
        f"one row of {_ROW} tokens"
    )
    titles = (
        "parameters",
        "cache of 1,000",
        "engine",
        "LoRA",
        "full",
        "full, offloaded",
        "then off GPUs",
    )
    yield f"# {'':<6}" + "".join(f"{title:>16}" for title in titles)
    for name, key in _SHAPES.items():
        shape = KNOWN[key]
        cells = (
            f"{2 * shape.parameters / GIB:.1f} GiB",
            f"{1000 * kv_bytes(shape, 2) / 2**20:.0f} MiB",
            *(str(count) for count in _counts(shape)),
            f"{_offloaded(shape) / GIB:.0f} GiB",
        )
        yield f"# {name:<6}" + "".join(f"{cell:>16}" for cell in cells)


def _counts(shape: Shape) -> Iterator[int]:
    """The least power of two of GPUs for an engine with one context, and for each way to learn."""
    context = _ROW * kv_bytes(shape, 2)

    def engine(n: int) -> int:
        memory = of_engine(shape, 2, n, sequences=256, room=0)
        return memory.weights + memory.working + context // n

    yield _least(engine)
    ways: tuple[tuple[int | None, bool], ...] = ((32, False), (None, False), (None, True))
    for lora, offloaded in ways:

        def needed(n: int, lora: int | None = lora, offloaded: bool = offloaded) -> int:
            setup = Setup(shape, 1, _ROW, _ROW, 2, n, 3, lora, True, offloaded, offloaded)
            return of_rank(replace(setup, checkpointing=True)).total

        yield _least(needed)


def _offloaded(shape: Shape) -> int:
    """Of all ranks together, beside their GPUs."""
    setup = Setup(shape, 1, _ROW, _ROW, stage=3, offload_optimizer=True, offload_parameters=True)
    return of_rank(setup).host


def _least(needed: Callable[[int], int]) -> int:
    count = 1
    while needed(count) + CONTEXT > _USUAL * GIB and count < _MOST_GPUS:
        count *= 2
    return count
