"""A vLLM engine of this process, and what is asked of one. Prompts are token ids and answers are
token ids: text never crosses this boundary.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from actors.routing import ServerLost
from actors.vllm.cpu_affinity import openmp_on, parse_cores
from r2v_dist.config.models import LARGEST_ADAPTER, ModelConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import TOP_LOGPROBS, TopTokens


@dataclass(frozen=True)
class EngineRequest:
    """A prompt and how to continue it. `seed` makes the continuation a function of the request
    alone. `id` names the request where it is to be cancelled; no answer depends on it.
    """

    prompt_ids: list[int]
    seed: int
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    top: int
    stop_ids: list[int]
    id: str = ""


@dataclass(frozen=True)
class EngineAnswer:
    """Sampled ids and their log-probabilities for each of the n continuations, and the first
    token's top alternatives.
    """

    token_ids: list[list[int]]
    logprobs: list[list[float]]
    first_top: TopTokens


@dataclass(frozen=True)
class RequestFailed:
    """What one request came to that got no answer. The others of its batch go on."""

    reason: str


class EngineLost(ServerLost):
    """The engine is gone. What was asked of it can be asked of another engine."""


Arrived = tuple[str, list[tuple[int, EngineAnswer | RequestFailed]]]
"""A version and what it answered: each answer with the place of its request in the batch."""


@dataclass(frozen=True)
class Site:
    """Where an engine is, and what it is to be ready for: which of its role's replicas it is,
    whether its ranks are spread over nodes, the largest rank of an adapter (0: none will come),
    whether it is put to sleep between phases, and under which name vLLM records metrics of its own;
    empty where it records none.
    """

    replica: int = 0
    across_nodes: bool = False
    adapter_rank: int = 0
    sleeps: bool = False
    metrics_name: str = ""


_ALONE = Site()
_ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, LARGEST_ADAPTER)
"""Those of vLLM's that matter."""


class VllmEngine:
    """An engine that has started. Creating one takes a minute and blocks. `build` makes vLLM's own
    engine.
    """

    def __init__(
        self,
        config: ModelConfig,
        path: str,
        site: Site,
        build: Callable[[ModelConfig, str, Site], Any] | None = None,
    ) -> None:
        self._ids = count()
        self._engine = (build or _build_engine)(config, path, site)
        self._path = path
        self._adapter_ids = count(1)
        self._adapter: Any = None
        self._on_cpu = on_cpu(site)

    async def warm_up(self) -> None:
        """Return once the engine has answered."""
        await self.generate(EngineRequest([0, 1, 2], 0, 1, 0.0, 1.0, 1, 1, []))

    def check(self) -> None:
        """Only reads; may be called from any thread. Raises EngineLost where the engine's processes
        are gone.
        """
        if self._engine.errored:
            raise EngineLost(str(self._engine.dead_error))

    async def reload(self, path: str, adapter: str = "") -> None:
        """Replace the weights in place, after the requests in flight; clears the prefix cache. Only
        an adapter is read where another one was or is added to the same model.
        """
        await self._engine.pause_generation(mode="wait", clear_cache=True)
        if path != self._path or not (adapter or self._adapter):
            await self._load(path)
        await self._add(adapter)
        await self._engine.reset_prefix_cache()
        await self._engine.resume_generation()

    async def sleep(self) -> None:
        """Give the GPU's memory back; weights and cache are gone. No request is in flight."""
        await self._engine.sleep(level=2, mode="wait")

    async def wake(self, path: str, adapter: str = "") -> None:
        """Take the memory again, first for the weights, which are then read, so that they and the
        cache never need their room twice.
        """
        await self._engine.wake_up(["weights"])
        await self._load(path)
        await self._engine.wake_up(["kv_cache"])
        await self._add(adapter)
        await self._engine.reset_prefix_cache()

    async def _load(self, path: str) -> None:
        """Read all weights, which drops an adapter."""
        await self._engine.collective_rpc("load_checkpoint", args=(path,))
        self._path = path
        self._adapter = None

    async def _add(self, adapter: str) -> None:
        """Have answers come from the model with this adapter, or without one."""
        if self._adapter is not None:
            await self._engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None
        if adapter:
            from vllm.lora.request import LoRARequest

            lora = LoRARequest(adapter, next(self._adapter_ids), adapter)
            if not await self._engine.add_lora(lora):
                raise RuntimeFailure(f"the engine did not take the adapter {adapter}")
            self._adapter = lora

    async def generate(self, request: EngineRequest) -> EngineAnswer:
        """The answer; cancelling this stops the engine's work on it. Raises EngineLost where the
        engine's processes are gone.
        """
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        params = SamplingParams(
            n=request.n,
            seed=request.seed,
            temperature=request.temperature,
            **_top_p(request, self._on_cpu),
            max_tokens=request.max_tokens,
            logprobs=request.top,
            # Without an object for every alternative of every token; only the first token's are
            # used.
            flat_logprobs=True,
            stop_token_ids=request.stop_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        # Marked as ready for the engine: a raw prompt would go through the tokenizer's thread pool.
        prompt = tokens_input(request.prompt_ids)
        answering = self._engine.generate(
            prompt, params, request_id=str(next(self._ids)), lora_request=self._adapter
        )
        try:
            [final] = [output async for output in answering]
        except EngineDeadError as error:
            raise EngineLost(str(error)) from None
        outputs = sorted(final.outputs, key=lambda o: o.index)
        flat = outputs[0].logprobs
        alternatives = dict(zip(flat.token_ids[: flat.end_indices[0]], flat.logprobs, strict=False))
        first_tokens = sorted(alternatives.items(), key=lambda pair: -pair[1])
        return EngineAnswer(
            token_ids=[list(o.token_ids) for o in outputs],
            # The sampled token is the first of its position.
            logprobs=[
                [o.logprobs.logprobs[start] for start in o.logprobs.start_indices] for o in outputs
            ],
            first_top=TopTokens.of(first_tokens[: request.top]),
        )


def _top_p(request: EngineRequest, computes_on_cpu: bool) -> dict[str, Any]:
    """How an engine is told top-p: on a CPU vLLM's own way sorts the vocabulary."""
    if not computes_on_cpu or request.top_p >= 1 or not request.temperature:
        return {"top_p": request.top_p}
    from actors.vllm.nucleus import TOP_P

    return {"extra_args": {TOP_P: request.top_p}}


def on_cpu(site: Site) -> bool:
    """Whether an engine started by this process computes on its CPU."""
    import torch

    return not (site.across_nodes or torch.cuda.is_available())


def engine_arguments(config: ModelConfig, path: str, site: Site = _ALONE) -> dict[str, Any]:
    """vLLM's settings. An engine with them is started inside `engine_place`."""
    arguments: dict[str, Any] = {
        "model": path,
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel,
        "pipeline_parallel_size": config.pipeline_parallel,
        "enable_prefix_caching": True,
        "max_logprobs": TOP_LOGPROBS,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **_adapter_arguments(site.adapter_rank),
    }
    if site.across_nodes:
        # Named, because vLLM chooses by the GPUs that this process sees, and here they are its
        # workers'.
        arguments["distributed_executor_backend"] = "ray"
    elif config.ranks > 1:
        # Named too: in a placement group vLLM would choose Ray, which needs a bundle a GPU.
        arguments["distributed_executor_backend"] = "mp"
    if on_cpu(site):
        return arguments | _cpu_arguments(config)
    return arguments | {
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enable_sleep_mode": site.sleeps,
    }


def _cpu_arguments(config: ModelConfig) -> dict[str, Any]:
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    return {
        "enforce_eager": True,
        "logits_processors": ["actors.vllm.nucleus:Nucleus"],
        "block_size": 32,
        "kv_cache_memory_bytes": config.kv_cache_mib * 2**20,
        # A seeded request whose prompt is split over two steps ends the engine: CPU generators have
        # no offset.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(2048, config.max_model_len),
        # By default vLLM computes on CPU in one more process, for which the scheduler's waits
        # spinning: a core of its own that games need. In the scheduler's process, as on one GPU,
        # there is neither that nor the traffic between the two.
        **({"distributed_executor_backend": UniProcExecutor} if config.ranks == 1 else {}),
    }


def _adapter_arguments(rank: int) -> dict[str, Any]:
    """One adapter at a time, up to the next larger rank that vLLM knows."""
    if not rank:
        return {}
    room = next(size for size in _ADAPTER_RANKS if size >= rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}


def engine_place(config: ModelConfig, replica: int = 0) -> contextlib.AbstractContextManager[None]:
    """Where the engine started inside computes: on the configured cores, or where vLLM sees fit on
    GPUs and with several ranks.
    """
    import torch

    if torch.cuda.is_available() or config.ranks > 1:
        return contextlib.nullcontext()
    cores = parse_cores(config.cpu_cores)
    # A list of cores is divided among the replicas: two engines on one core wait for each other.
    replica_cores = cores[replica :: config.replicas] if config.cpu_cores else cores
    return openmp_on(replica_cores or cores)


def _build_engine(config: ModelConfig, path: str, site: Site) -> Any:
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise RuntimeFailure(
            f"vLLM cannot be imported ({error}); install it with `make setup`, or `.[gpu]` on a "
            f"CUDA machine"
        ) from None

    arguments = AsyncEngineArgs(
        **engine_arguments(config, path, site),
        served_model_name=site.metrics_name or None,
        worker_extension_cls="actors.vllm.weight_update.ReloadExtension",
    )
    loggers = None
    if site.metrics_name:
        from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

        loggers = [RayPrometheusStatLogger]
    with engine_place(config, site.replica):
        return AsyncLLM.from_engine_args(arguments, stat_loggers=loggers)
