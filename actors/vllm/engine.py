"""A vLLM engine as a Ray actor: many requests in flight, weights replaced in place, every answer
names its version.

Requests come in batches (one call for many prompts), because a call costs more than a short
action's tokens; answers leave as they are ready, because the longest of a batch takes many times as
long as the shortest, and the episodes of the others would wait meanwhile. Prompts are token ids and
answers are token ids: text never crosses this boundary.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from actors.vllm.cpu_affinity import openmp_on, parse_cores
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import TOP_LOGPROBS, TopTokens


@dataclass(frozen=True)
class EngineRequest:
    """A prompt and how to continue it. `seed` makes the continuation a function of the request
    alone.
    """

    prompt_ids: list[int]
    seed: int
    n: int
    temperature: float
    top_p: float
    max_tokens: int
    top: int
    stop_ids: list[int]


@dataclass(frozen=True)
class EngineAnswer:
    """Sampled ids and their log-probabilities for each of the n continuations, and the first
    token's top alternatives.
    """

    token_ids: list[list[int]]
    logprobs: list[list[float]]
    first_top: TopTokens


Arrived = tuple[str, list[tuple[int, EngineAnswer]]]
"""A version and what it answered: each answer with the place of its request in the batch."""


class VllmServer:
    """One engine, as an async Ray actor. `_after` may be a reference, for which Ray waits before it
    makes the engine.
    """

    def __init__(self, config: ModelConfig, path: str, version: str, _after: str = "") -> None:
        self._config = config
        self._version = version
        self._ids = count()
        self._engine = _build_engine(config, path)

    async def ready(self) -> str:
        """The engine's version, once it can answer."""
        await self._generate(EngineRequest([0, 1, 2], 0, 1, 0.0, 1.0, 1, 1, []))
        return self._version

    async def sample(self, requests: list[EngineRequest]) -> tuple[str, list[EngineAnswer]]:
        """Version and answers, in the order of the requests, when all are there."""
        answers = await asyncio.gather(*(self._generate(request) for request in requests))
        return self._version, list(answers)

    async def stream(self, requests: list[EngineRequest]) -> AsyncIterator[Arrived]:
        """Each answer once, soon after the engine gave it, together with others that were ready by
        then.

        A request that fails ends the stream with its error; answers that have left stay valid.
        """
        places = {
            asyncio.ensure_future(self._generate(request)): place
            for place, request in enumerate(requests)
        }
        try:
            while places:
                ready, _ = await asyncio.wait(places, return_when=asyncio.FIRST_COMPLETED)
                yield self._version, [(places.pop(task), task.result()) for task in ready]
        finally:
            for task in places:
                task.cancel()

    async def load(self, path: str, version: str) -> str:
        """Replace the weights in place, after the requests in flight; clears the prefix cache."""
        await self._engine.pause_generation(mode="wait", clear_cache=True)
        await self._engine.collective_rpc("load_checkpoint", args=(path,))
        await self._engine.reset_prefix_cache()
        await self._engine.resume_generation()
        self._version = version
        return version

    async def _generate(self, request: EngineRequest) -> EngineAnswer:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=request.n,
            seed=request.seed,
            temperature=request.temperature,
            top_p=request.top_p,
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
        [final] = [
            output
            async for output in self._engine.generate(
                prompt, params, request_id=str(next(self._ids))
            )
        ]
        outputs = sorted(final.outputs, key=lambda o: o.index)
        flat = outputs[0].logprobs
        alternatives = dict(zip(flat.token_ids[: flat.end_indices[0]], flat.logprobs, strict=False))
        first = sorted(alternatives.items(), key=lambda pair: -pair[1])
        return EngineAnswer(
            token_ids=[list(o.token_ids) for o in outputs],
            # The sampled token is the first of its position.
            logprobs=[
                [o.logprobs.logprobs[start] for start in o.logprobs.start_indices] for o in outputs
            ],
            first_top=TopTokens.of(first[: request.top]),
        )


def engine_arguments(config: ModelConfig, path: str) -> dict[str, Any]:
    """vLLM's settings. An engine with them is started inside `engine_place`."""
    import torch
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    arguments: dict[str, Any] = {
        "model": path,
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel,
        "enable_prefix_caching": True,
        "max_logprobs": TOP_LOGPROBS,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if torch.cuda.is_available():
        return arguments | {"gpu_memory_utilization": config.gpu_memory_utilization}
    return arguments | {
        "enforce_eager": True,
        "block_size": 32,
        "kv_cache_memory_bytes": config.kv_cache_mib * 2**20,
        # A seeded request whose prompt is split over two steps ends the engine: CPU generators have
        # no offset.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(2048, config.max_model_len),
        # By default vLLM computes on CPU in one more process, for which the scheduler's waits
        # spinning: a core of its own that games need. In the scheduler's process, as on one GPU,
        # there is neither that nor the traffic between the two.
        **(
            {"distributed_executor_backend": UniProcExecutor} if config.tensor_parallel == 1 else {}
        ),
    }


def engine_place(config: ModelConfig) -> contextlib.AbstractContextManager[None]:
    """Where the engine started inside computes: on the configured cores, or where vLLM sees fit on
    GPUs and with several ranks.
    """
    import torch

    if torch.cuda.is_available() or config.tensor_parallel > 1:
        return contextlib.nullcontext()
    return openmp_on(parse_cores(config.cpu_cores))


def _build_engine(config: ModelConfig, path: str) -> Any:
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise RuntimeFailure(
            f"vLLM cannot be imported ({error}); install it with `make setup`, or `.[gpu]` on a "
            f"CUDA machine"
        ) from None

    arguments = AsyncEngineArgs(
        **engine_arguments(config, path),
        worker_extension_cls="actors.vllm.weight_update.ReloadExtension",
    )
    with engine_place(config):
        return AsyncLLM.from_engine_args(arguments)
