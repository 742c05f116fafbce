"""Answers that an engine gives again to equal requests, where its configuration says so: sweeps of
thresholds ask again what an earlier pass over the same tasks has asked, and with temperature 0 the
episodes of a task begin with equal prompts under many perturbation seeds.

Invariant: what one version of a model has answered is forgotten with that version.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from actors.vllm.engine import EngineRequest

Outcome = TypeVar("Outcome")


def key_of(request: EngineRequest) -> Hashable:
    """Equal for requests with the same answer. Without temperature the seed decides nothing."""
    sampling = (request.seed, request.temperature, request.top_p) if request.temperature else ()
    parts = (request.n, request.max_tokens, request.top, tuple(request.stop_ids))
    return (tuple(request.prompt_ids), *parts, *sampling)


class KnownAnswers(Generic[Outcome]):
    """The latest `capacity` answers. Whoever asks what is being computed waits for it. All calls
    come from one event loop.
    """

    def __init__(self, capacity: int, is_answer: Callable[[Outcome], bool]) -> None:
        self._capacity = capacity
        self._is_answer = is_answer
        self._known: dict[Hashable, asyncio.Future[Outcome | None]] = {}

    def forget(self) -> None:
        """From here on everything is computed again."""
        self._known = {}

    async def once(
        self, request: EngineRequest, compute: Callable[[], Awaitable[Outcome]]
    ) -> Outcome:
        """The answer. A failure is not kept: whoever waits for it computes again."""
        if not self._capacity:
            return await compute()
        key = key_of(request)
        while (future := self._known.get(key)) is not None:
            outcome = await asyncio.shield(future)
            if outcome is not None:
                return outcome
        return await self._first(key, compute)

    async def _first(self, key: Hashable, compute: Callable[[], Awaitable[Outcome]]) -> Outcome:
        futures = self._known
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        futures[key] = future
        answer: Outcome | None = None
        try:
            outcome = await compute()
            answer = outcome if self._is_answer(outcome) else None
            return outcome
        finally:
            future.set_result(answer)
            if answer is None:
                futures.pop(key, None)
            elif len(futures) > self._capacity:
                # Never what is being computed: it would be computed twice.
                futures.pop(next(key for key, entry in futures.items() if entry.done()))
