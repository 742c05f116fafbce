"""Greedy answers, each computed once: with temperature 0 the seed decides nothing, and the episodes
of a task begin with equal prompts under many perturbation seeds.

Invariant: what one version of a model has answered is forgotten with that version.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from actors.vllm.engine import EngineRequest

Outcome = TypeVar("Outcome")
_REMEMBERED = 4096
"""Answers; the oldest go first."""


def greedy_key(request: EngineRequest) -> Hashable | None:
    """Equal for requests with the same answer; None where the seed decides."""
    if request.temperature > 0:
        return None
    parts = (request.n, request.max_tokens, request.top, tuple(request.stop_ids))
    return (tuple(request.prompt_ids), *parts)


class GreedyAnswers(Generic[Outcome]):
    """Whoever asks what is being computed waits for it. All calls come from one event loop."""

    def __init__(self, is_answer: Callable[[Outcome], bool]) -> None:
        self._is_answer = is_answer
        self._known: dict[Hashable, asyncio.Future[Outcome | None]] = {}

    def forget(self) -> None:
        """From here on everything is computed again."""
        self._known = {}

    async def once(
        self, key: Hashable | None, compute: Callable[[], Awaitable[Outcome]]
    ) -> Outcome:
        """The answer. A failure is not kept: whoever waits for it computes again."""
        if key is None:
            return await compute()
        while (known := self._known.get(key)) is not None:
            outcome = await asyncio.shield(known)
            if outcome is not None:
                return outcome
        return await self._first(key, compute)

    async def _first(self, key: Hashable, compute: Callable[[], Awaitable[Outcome]]) -> Outcome:
        known = self._known
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        known[key] = future
        answered: Outcome | None = None
        try:
            outcome = await compute()
            answered = outcome if self._is_answer(outcome) else None
            return outcome
        finally:
            if answered is None:
                known.pop(key, None)
            elif len(known) > _REMEMBERED:
                known.pop(next(iter(known)))
            future.set_result(answered)
