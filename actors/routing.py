"""Which of several equal servers is asked.

Invariant: questions of one group go to one server, whoever asks, as long as that server is there
and has at most `MARGIN` more of this asker's questions than the one with fewest. So prefix caches
hold, and no server idles while another has a queue.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic

from actors.batching import Arrivals, Batcher, Question, Reply
from actors.unit_clock import waiting_for_engine
from r2v_dist.errors import RuntimeFailure
from r2v_dist.seeding import stable_hash

MARGIN = 2
LOST_TRIES = 3
"""Servers that may be lost over one question; after that the question is blamed."""
PAUSE_S = 1.0
"""How long a lost server is left alone."""


class ServerLost(RuntimeFailure):
    """The server is gone and has not answered. Another one can be asked the same."""


class ServerNotReady(ServerLost):
    """The server's process is there and takes no question yet."""


def choose(group: int, loads: Sequence[int], there: Sequence[bool]) -> int | None:
    """The place of the server to ask; None where none is there. Every group has an order of its
    own, so that the groups of a lost server spread over all others.
    """
    places = [place for place, is_there in enumerate(there) if is_there]
    if not places:
        return None
    load_limit = min(loads[place] for place in places) + MARGIN
    places.sort(key=lambda place: stable_hash(group, place))
    return next(place for place in places if loads[place] <= load_limit)


class Router(Generic[Question, Reply]):
    """Asks one of several servers, and another one where that is lost. `wait_s` is the longest time
    without any server, in seconds; `cancel` is told of a question, with its server's place, that
    nobody waits for any more.
    """

    def __init__(
        self,
        calls: Sequence[Callable[[list[Question]], Arrivals[Reply]]],
        name: str,
        wait_s: float,
        cancel: Callable[[int, Question], object] = lambda *_: None,
    ) -> None:
        self._cancel = cancel
        self._batchers = [Batcher(call, None, name) for call in calls]
        self._name = name
        self._wait_s = wait_s
        self._loads = [0] * len(calls)
        self._up = [True] * len(calls)
        """Which servers have shown that they are there since they were lost."""
        self._back = [0.0] * len(calls)
        """When a lost server is asked again, by the event loop's clock."""

    async def ask(self, group: int, question: Question) -> Reply:
        """The reply. Raises RuntimeFailure where no server answers."""
        with waiting_for_engine():
            return await self._ask(group, question)

    async def _ask(self, group: int, question: Question) -> Reply:
        losses = 0
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._wait_s
        while True:
            place = await self._place(group, give_up)
            self._loads[place] += 1
            try:
                reply = await self._batchers[place].ask(question)
                self._up[place] = True
                return reply
            except ServerNotReady:
                self._back[place] = loop.time() + PAUSE_S
                self._up[place] = True
            except ServerLost as error:
                self._back[place] = loop.time() + PAUSE_S
                if self._up[place]:  # one death is counted once
                    losses += 1
                    give_up = loop.time() + self._wait_s
                self._up[place] = False
                if losses > LOST_TRIES:
                    raise RuntimeFailure(
                        f"{self._name} was lost {losses} times with this request under way: {error}"
                    ) from None
            except asyncio.CancelledError:
                self._cancel(place, question)
                raise
            finally:
                self._loads[place] -= 1

    async def _place(self, group: int, give_up: float) -> int:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            place = choose(group, self._loads, [back <= now for back in self._back])
            if place is not None:
                return place
            if now > give_up:
                raise RuntimeFailure(f"{self._name} did not come back within {self._wait_s:.0f} s")
            await asyncio.sleep(min(self._back) - now)
