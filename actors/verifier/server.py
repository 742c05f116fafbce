"""The trained verifier as a Ray actor.

Requests are token ids. What arrives while a forward pass runs is scored together in the next one;
all candidates of a state share one reading of their prompt. A runner sends what has piled up in one
call, as it does for a model.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

from actors.batching import Arrivals, Batcher, all_at_once
from cluster import environment, resources
from cluster.node_lock import node_lock
from learners.common.packing import AnswerRow
from r2v_dist.config.verifier import VerifierConfig
from r2v_dist.object_storage.mirror import at_hand

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
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(config.gpu_memory_utilization)
        with node_lock("engine-start", on_gpu):  # an engine that starts measures what is free
            self._model = ValueModel(at_hand(Path(path)), config.max_tokens, KEPT_TOKENS)
        self._version = version
        # Whoever asks has a deadline; a forward pass cannot be stopped.
        self._batcher = Batcher(
            self._forward_pass, None, "the verifier's model", one_at_a_time=True
        )

    async def ready(self) -> str:
        """The version, once it can answer."""
        return self._version

    async def score(
        self, states: list[tuple[list[int], list[list[int]]]]
    ) -> list[tuple[float, ...]]:
        """V of every answer of every state, in order."""
        rows = [AnswerRow(prompt, tuple(answers)) for prompt, answers in states]
        return await asyncio.gather(*(self._batcher.ask(row) for row in rows))

    def _forward_pass(self, rows: list[AnswerRow]) -> Arrivals[tuple[float, ...]]:
        return all_at_once(asyncio.to_thread(self._model.score, rows))


def start_verifier(path: str, version: str, config: VerifierConfig) -> list[Any]:
    """Start the actors without waiting for them; their `ready` answers with the version. Ray starts
    one again when its process dies.
    """
    import ray

    gpus = resources.gpu_share(config.gpu_memory_utilization)
    variables = environment.of_scorer(config.threads, gpus > 0) | resources.variables()
    options = {
        "num_cpus": 0,
        "num_gpus": gpus,
        "max_concurrency": 1024,
        # Whoever asked a scorer that is gone asks another one, or again.
        "max_restarts": -1,
        "runtime_env": {"env_vars": variables},
    }
    remote = ray.remote(VerifierServer).options(**options)
    place = os.path.abspath(path)
    return [remote.remote(place, version, config) for _ in range(config.replicas)]
