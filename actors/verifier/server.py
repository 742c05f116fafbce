"""The trained verifier as a Ray actor, and as env runners use it.

Requests are token ids. What arrives while a forward pass runs is scored together in the next one;
all candidates of a state share one reading of their prompt. A runner sends what has piled up in one
call, as it does for a model.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from cluster import environment, resources
from learners.common.packing import AnswerRow
from r2v_dist.config.verifier import VerifierConfig

KEPT_TOKENS = 50_000
"""Prompt tokens that a scorer without an accelerator keeps read: some hundred conversations of a
small model, 300 MB.
"""


class VerifierServer:
    """Create it as an async Ray actor with a high `max_concurrency`: calls wait while a forward
    pass runs.
    """

    def __init__(self, path: str, version: str, config: VerifierConfig) -> None:
        import torch

        from learners.verifier.network import ValueModel

        torch.set_num_threads(config.threads)
        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(config.gpu_memory_utilization)
        self._max_tokens = config.max_tokens
        self._model = ValueModel(Path(path), self._max_tokens, KEPT_TOKENS)
        self._version = version
        self._waiting: list[tuple[list[AnswerRow], asyncio.Future[list[tuple[float, ...]]]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ready(self) -> str:
        """The version, once it can answer."""
        return self._version

    async def load(self, path: str, version: str) -> str:
        """Replace the verifier; a forward pass under way ends with the old one."""
        from learners.verifier.network import ValueModel

        self._model = await asyncio.to_thread(ValueModel, Path(path), self._max_tokens, KEPT_TOKENS)
        self._version = version
        return version

    async def score(
        self, states: list[tuple[list[int], list[list[int]]]]
    ) -> list[tuple[float, ...]]:
        """V of every answer of every state, in order."""
        future: asyncio.Future[list[tuple[float, ...]]] = asyncio.get_running_loop().create_future()
        self._waiting.append(
            ([AnswerRow(prompt, tuple(answers)) for prompt, answers in states], future)
        )
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            batch = self._waiting
            self._waiting = []
            try:
                scores = iter(
                    await asyncio.to_thread(
                        self._model.score, [row for rows, _ in batch for row in rows]
                    )
                )
            except Exception as error:  # a boundary: whoever waits must learn of the failure
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for rows, future in batch:
                answer = [next(scores) for _ in rows]
                if not future.done():
                    future.set_result(answer)


def start_verifier(path: str, version: str, config: VerifierConfig) -> Any:
    """Start the actor without waiting for it; its `ready` answers with the version. Ray starts it
    again when its process dies.
    """
    import ray

    options = {
        "num_cpus": 0,
        "num_gpus": resources.gpu_share(config.gpu_memory_utilization),
        "max_concurrency": 1024,
        "max_restarts": 3,
        "runtime_env": {"env_vars": environment.of_scorer(config.threads)},
    }
    return (
        ray.remote(VerifierServer).options(**options).remote(os.path.abspath(path), version, config)
    )
