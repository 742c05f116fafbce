"""An engine as a Ray actor: many requests in flight, weights replaced in place, every answer names
its version.

Requests come in batches (one call for many prompts), because a call costs more than a short
action's tokens; answers leave as they are ready, because the longest of a batch takes many times as
long as the shortest, and the episodes of the others would wait meanwhile.

Invariant: creating the actor returns at once and starts no engine; `serve` does, in a thread. So
`health`, which is called in a concurrency group of its own, answers while the engine starts and
while it is busy, and a process that Ray has started again never answers with outdated weights.
Weights change while nothing is computed, and an answer leaves with the version that gave it.
"""

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from actors.routing import ServerNotReady
from actors.vllm.admission import Admission
from actors.vllm.engine import (
    Arrived,
    EngineAnswer,
    EngineLost,
    EngineRequest,
    RequestFailed,
    Site,
    VllmEngine,
)
from actors.vllm.health import Report, State
from actors.vllm.known_answers import KnownAnswers
from actors.vllm.remote_weights import fetch, require_reachable
from cluster.node_lock import node_lock
from r2v_dist.config.models import ModelConfig

HEALTH_GROUP = "health"


class Engine(Protocol):
    """What computes, in this process or below it."""

    async def warm_up(self) -> None: ...

    async def generate(self, request: EngineRequest) -> EngineAnswer: ...

    async def reload(self, path: str, adapter: str = "") -> None: ...

    async def sleep(self) -> None: ...

    async def wake(self, path: str, adapter: str = "") -> None: ...

    def check(self) -> None: ...


Outcome = tuple[str, EngineAnswer | RequestFailed]
"""A version, and what it made of a request."""
MakeEngine = Callable[[ModelConfig, str, Site], Engine]


class EngineServer:
    """One replica of a role. `exclusive`: no other engine starts on this node at the same time,
    because an engine measures how much of its GPU is free.
    """

    def __init__(
        self,
        config: ModelConfig,
        site: Site,
        exclusive: bool = False,
        make: MakeEngine = VllmEngine,
    ) -> None:
        self._config = config
        self._site = site
        self._exclusive = exclusive
        self._make = make
        self._engine: Engine | None = None
        self._changing = asyncio.Lock()
        self._state = State.EMPTY
        self._version = ""
        self._order = 0
        """The latest order that has come."""
        self._problem = ""
        self._room = Admission(config.sequences_held)
        self._tasks: dict[str, asyncio.Task[Outcome]] = {}
        self._known = KnownAnswers[Outcome](
            config.remembered_answers, lambda outcome: isinstance(outcome[1], EngineAnswer)
        )
        self._computing = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._settled = asyncio.Event()
        """No change of weights is under way."""
        self._settled.set()
        self._tokens = 0
        self._progress = time.monotonic()
        self._process = uuid.uuid4().hex

    async def serve(self, path: str, version: str, adapter: str = "", order: int = 0) -> str:
        """Return once the engine answers as this version: starts it, wakes it, or replaces its
        weights in place after the requests in flight. Nothing changes where a later order (of
        `serve` or `sleep`) has come before: Ray does not keep the order of calls. Returns what the
        engine then answers as.
        """
        async with self._changing:
            if self._is_latest(order) and version != self._version:
                await self._change(path, version, adapter)
            return self._version

    async def sleep(self, order: int = 0) -> None:
        """Return once the engine has given its memory back, after the requests in flight. One that
        has not started does not start. Orders are as in `serve`.
        """
        async with self._changing:
            if not self._is_latest(order):
                return
            if self._engine is None or self._state is not State.SERVING:
                return
            async with self._no_requests():
                self._state = State.ASLEEP
                self._version = ""
                await self._engine.sleep()

    async def reload(self, path: str) -> None:
        """Read the weights again, which empties the prefix cache."""
        await self._require_engine().reload(path)
        self._known.forget()

    async def health(self) -> Report:
        """How this engine is. Called from another thread than the other methods; only reads."""
        if self._state is State.SERVING and self._engine is not None:
            try:
                self._engine.check()
            except EngineLost as error:
                self._fail(error)
        return Report(
            self._state,
            self._version,
            self._tokens,
            self._computing,
            self._room.waiting,
            time.monotonic() - self._progress if self._computing else 0.0,
            self._problem,
            self._process,
            os.getpid(),
        )

    async def sample(self, requests: list[EngineRequest]) -> tuple[str, list[EngineAnswer]]:
        """Version and answers, in the order of the requests, when all are there. Raises EngineLost
        for a request that gets none.
        """
        self._require_engine()
        outcomes = await asyncio.gather(*(self._answer(request) for request in requests))
        answers: list[EngineAnswer] = []
        version = self._version
        for answered_by, answer in outcomes:
            if isinstance(answer, RequestFailed):
                raise EngineLost(answer.reason)
            version = answered_by
            answers.append(answer)
        return version, answers

    async def stream(self, requests: list[EngineRequest]) -> AsyncIterator[Arrived]:
        """Each answer once, soon after the engine gave it, together with others that were ready by
        then. A request that fails has its failure as its answer.

        Raises ServerLost where the engine is gone, ServerNotReady where there is none yet; answers
        that have left stay valid.
        """
        self._require_engine()
        places = {
            asyncio.ensure_future(self._answer(request)): place
            for place, request in enumerate(requests)
        }
        self._tasks.update((requests[place].id, task) for task, place in places.items())
        try:
            while places:
                ready, _ = await asyncio.wait(places, return_when=asyncio.FIRST_COMPLETED)
                answers_by_version: dict[str, list[tuple[int, EngineAnswer | RequestFailed]]] = {}
                for task in ready:
                    version, answer = _outcome(task)
                    answers_by_version.setdefault(version, []).append((places.pop(task), answer))
                for version, answers in answers_by_version.items():
                    yield version, answers
        finally:
            for task in places:
                task.cancel()
            for request in requests:
                self._tasks.pop(request.id, None)

    async def cancel(self, request_id: str) -> None:
        """Stop the work on a request that nobody waits for any more."""
        if task := self._tasks.get(request_id):
            task.cancel()

    async def _answer(self, request: EngineRequest) -> Outcome:
        return await self._known.once(request, lambda: self._admitted(request))

    async def _admitted(self, request: EngineRequest) -> Outcome:
        async with self._room.room(request.n):
            while not self._settled.is_set():
                await self._settled.wait()
            if not self._computing:
                self._progress = time.monotonic()
            self._computing += 1
            self._idle.clear()
            try:
                return self._version, await self._compute(request)
            finally:
                self._computing -= 1
                if not self._computing:
                    self._idle.set()

    @contextlib.asynccontextmanager
    async def _no_requests(self) -> AsyncIterator[None]:
        """Enter once nothing is computed; requests wait until the block ends."""
        self._settled.clear()
        try:
            await self._idle.wait()
            yield
        finally:
            self._settled.set()

    async def _compute(self, request: EngineRequest) -> EngineAnswer | RequestFailed:
        engine = self._require_engine()
        limit_s = self._config.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                answer = await engine.generate(request)
        except EngineLost as error:
            self._fail(error)
            raise
        except TimeoutError:
            return RequestFailed(f"no answer after {limit_s:g} s of computing (timeout_s)")
        except Exception as error:  # a boundary: a refused request is no other request's failure
            reason = (str(error).strip().splitlines() or [""])[-1]
            return RequestFailed(f"{type(error).__name__}: {reason}")
        self._tokens += sum(map(len, answer.token_ids))
        self._progress = time.monotonic()
        return answer

    async def _change(self, path: str, version: str, adapter: str) -> None:
        require_reachable(path, adapter, self._site.across_nodes)
        if self._engine is None:
            await self._begin(path, adapter)
        elif self._state is State.ASLEEP:
            self._state = State.STARTING
            try:
                await fetch(path, adapter)
                await self._engine.wake(path, adapter)
            except Exception as error:
                self._fail(error)
                raise
        else:
            await fetch(path, adapter)  # questions are answered meanwhile
            async with self._no_requests():
                await self._engine.reload(path, adapter)
                self._version = version
                self._known.forget()
        self._version = version
        self._known.forget()
        self._state = State.SERVING

    async def _begin(self, path: str, adapter: str) -> None:
        self._state = State.STARTING
        try:
            await fetch(path, adapter)
            self._engine = await asyncio.to_thread(self._start, path)
            if adapter:
                await self._engine.reload(path, adapter)
            await self._engine.warm_up()
        except Exception as error:
            self._engine = None
            self._fail(error)
            raise

    def _start(self, path: str) -> Engine:
        with node_lock("engine-start", self._exclusive):
            return self._make(self._config, path, self._site)

    def _is_latest(self, order: int) -> bool:
        self._order = max(self._order, order)
        return order == self._order

    def _require_engine(self) -> Engine:
        if self._engine is None or self._state is not State.SERVING:
            raise ServerNotReady(f"the engine is {self._state}")
        return self._engine

    def _fail(self, error: Exception) -> None:
        self._state = State.FAILED
        self._problem = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"


def _outcome(task: "asyncio.Task[Outcome]") -> Outcome:
    return ("", RequestFailed("it was cancelled")) if task.cancelled() else task.result()


def engine_actor(config: ModelConfig, site: Site, options: dict[str, Any], make: MakeEngine) -> Any:
    """Create the actor without waiting for it. Ray starts its process again when it dies."""
    import ray

    remote = ray.remote(concurrency_groups={HEALTH_GROUP: 2})(EngineServer)
    exclusive = bool(options.get("num_gpus")) or site.across_nodes
    return remote.options(
        max_concurrency=1024, max_restarts=-1, max_task_retries=0, **options
    ).remote(config, site, exclusive, make)
