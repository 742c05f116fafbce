"""An engine as a Ray actor: many requests in flight, weights replaced in place, every answer names
its version.

Requests come in batches (one call for many prompts), because a call costs more than a short
action's tokens; answers leave as they are ready, because the longest of a batch takes many times as
long as the shortest, and the episodes of the others would wait meanwhile.

Invariant: creating the actor returns at once and starts no engine; `serve` does, in a thread. So
`health`, which is called in a concurrency group of its own, answers while the engine starts and
while it is busy, and a process that Ray has started again never answers with outdated weights.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
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
from cluster.node_lock import node_lock
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import UsageError
from r2v_dist.mirror import at_hand, of, shown

HEALTH_GROUP = "health"


class Engine(Protocol):
    """What computes, in this process or below it."""

    async def warm_up(self) -> None: ...

    async def generate(self, request: EngineRequest) -> EngineAnswer: ...

    async def reload(self, path: str) -> None: ...

    def check(self) -> None: ...


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
        self._problem = ""
        self._room = Admission(config.sequences_held)
        self._tasks: dict[str, asyncio.Task[EngineAnswer | RequestFailed]] = {}
        self._computing = 0
        self._tokens = 0
        self._progress = time.monotonic()
        self._process = uuid.uuid4().hex

    async def serve(self, path: str, version: str) -> str:
        """Return once the engine answers as this version: starts it, or replaces its weights in
        place after the requests in flight.
        """
        async with self._changing:
            if version != self._version:
                await self._change(path, version)
        return version

    async def reload(self, path: str) -> None:
        """Read the weights again, which empties the prefix cache."""
        await self._require_engine().reload(path)

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
        )

    async def sample(self, requests: list[EngineRequest]) -> tuple[str, list[EngineAnswer]]:
        """Version and answers, in the order of the requests, when all are there. Raises EngineLost
        for a request that gets none.
        """
        self._require_engine()
        answers = await asyncio.gather(*(self._answer(request) for request in requests))
        for answer in answers:
            if isinstance(answer, RequestFailed):
                raise EngineLost(answer.reason)
        return self._version, [one for one in answers if isinstance(one, EngineAnswer)]

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
                yield self._version, [(places.pop(task), _outcome(task)) for task in ready]
        finally:
            for task in places:
                task.cancel()
            for request in requests:
                self._tasks.pop(request.id, None)

    async def cancel(self, request_id: str) -> None:
        """Stop the work on a request that nobody waits for any more."""
        if task := self._tasks.get(request_id):
            task.cancel()

    async def _answer(self, request: EngineRequest) -> EngineAnswer | RequestFailed:
        async with self._room.room(request.n):
            if not self._computing:
                self._progress = time.monotonic()
            self._computing += 1
            try:
                return await self._compute(request)
            finally:
                self._computing -= 1

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

    async def _change(self, path: str, version: str) -> None:
        if self._site.across_nodes and of(Path(path)):
            raise UsageError(
                f"{shown(Path(path))}: the engine's ranks are on several nodes, which do not fetch "
                f"a model from an address; set tensor_parallel and pipeline_parallel to what one "
                f"node holds, or run_dir to a path on storage that every node sees"
            )
        await asyncio.to_thread(at_hand, Path(path))
        if self._engine is not None:
            await self._engine.reload(path)
        else:
            self._state = State.STARTING
            try:
                self._engine = await asyncio.to_thread(self._start, path)
                await self._engine.warm_up()
            except Exception as error:
                self._engine = None
                self._fail(error)
                raise
        self._version = version
        self._state = State.SERVING

    def _start(self, path: str) -> Engine:
        with node_lock("engine-start", self._exclusive):
            return self._make(self._config, path, self._site)

    def _require_engine(self) -> Engine:
        if self._engine is None or self._state is not State.SERVING:
            raise ServerNotReady(f"the engine is {self._state}")
        return self._engine

    def _fail(self, error: Exception) -> None:
        self._state = State.FAILED
        self._problem = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"


def _outcome(task: "asyncio.Task[EngineAnswer | RequestFailed]") -> EngineAnswer | RequestFailed:
    return RequestFailed("it was cancelled") if task.cancelled() else task.result()


def engine_actor(config: ModelConfig, site: Site, options: dict[str, Any], make: MakeEngine) -> Any:
    """Create the actor without waiting for it. Ray starts its process again when it dies."""
    import ray

    remote = ray.remote(concurrency_groups={HEALTH_GROUP: 2})(EngineServer)
    exclusive = bool(options.get("num_gpus")) or site.across_nodes
    return remote.options(
        max_concurrency=1024, max_restarts=-1, max_task_retries=0, **options
    ).remote(config, site, exclusive, make)
