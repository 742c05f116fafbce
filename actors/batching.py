"""Many questions, one call: what is asked within one turn of the event loop, or while a server that
takes one call at a time is busy, reaches it together.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

from r2v_dist.errors import RuntimeFailure

Question = TypeVar("Question")
Reply = TypeVar("Reply")


Arrivals = AsyncIterator[Iterable[tuple[int, Reply]]]
"""Replies to a batch as they come, each once, with the place of its question."""


async def all_at_once(answers: Awaitable[Sequence[Reply]]) -> Arrivals[Reply]:
    """Arrivals of a call that answers all questions of a batch together, in order."""
    yield enumerate(await answers)


class Batcher(Generic[Question, Reply]):
    """`call` answers a list of questions; `server` names who is called where a failure is told.

    Whoever asked goes on as soon as its own reply is there. `timeout_s` is for the whole batch;
    None leaves the deadline to whoever asks. `one_at_a_time`: a batch waits for the one before.
    """

    def __init__(
        self,
        call: Callable[[list[Question]], Arrivals[Reply]],
        timeout_s: float | None,
        server: str,
        one_at_a_time: bool = False,
    ) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._server = server
        self._waiting: list[tuple[Question, asyncio.Future[Reply]]] = []
        self._senders: set[asyncio.Task[None]] = set()
        self._free: contextlib.AbstractAsyncContextManager[object] = (
            asyncio.Lock() if one_at_a_time else contextlib.nullcontext()
        )

    async def ask(self, question: Question) -> Reply:
        """The answer. Raises RuntimeFailure when the server fails or does not answer in time."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if len(self._waiting) == 1:
            sender = asyncio.ensure_future(self._send())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await future

    async def _send(self) -> None:
        # One turn of the event loop lets every episode that is ready ask too.
        await asyncio.sleep(0)
        async with self._free:
            batch = [(question, future) for question, future in self._waiting if not future.done()]
            self._waiting = []
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: Sequence[tuple[Question, asyncio.Future[Reply]]]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._receive(batch)
        except RuntimeFailure as error:  # its message names the server
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        except Exception as error:  # a boundary: every waiting episode must learn of the failure
            reason = (str(error).strip().splitlines() or [""])[-1]
            for _, future in batch:
                if not future.done():
                    future.set_exception(
                        RuntimeFailure(
                            f"{self._server} did not answer: {type(error).__name__}: {reason}"
                        )
                    )

    async def _receive(self, batch: Sequence[tuple[Question, asyncio.Future[Reply]]]) -> None:
        open_places = set(range(len(batch)))
        async for replies in self._call([question for question, _ in batch]):
            for place, reply in replies:
                open_places.remove(place)
                if not (future := batch[place][1]).done():
                    future.set_result(reply)
        if open_places:
            raise RuntimeError(
                f"{len(open_places)} of {len(batch)} questions were left without a reply"
            )
