"""Env runners of this very process, for a debugger: everything happens in the thread that asks, in
one event loop that lives as long as the runners.

Ctrl-C is raised where the program is, because the loop handles no signal.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from actors.collector import CollectorActor, StageFolder
from actors.env_runner import Deployment, EnvRunner, RunnerSetup
from actors.failures import UnitBroken, UnitFailed, innermost
from actors.nodes import Nodes
from actors.totals import Totals
from r2v_dist.episodes import Episode, Unit
from r2v_dist.errors import StoreFailure, UsageError
from r2v_dist.storage.key_set import KeySet

UnitTask = asyncio.Task[Totals]
HERE = "this process"
Given = ParamSpec("Given")
Result = TypeVar("Result")


class SameThread(ThreadPoolExecutor):
    """Runs at once what is meant for another thread, such as the steps of an environment that waits
    for a sandbox.
    """

    def submit(
        self, fn: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> "Future[Result]":
        future = Future[Result]()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # a boundary: it is raised again where the result is awaited
            future.set_exception(error)
        return future


class LocalRunners:
    """`count` runners that no model server answers. Leaving the block ends what they do. `runner`
    is what a runner is an object of.
    """

    def __init__(self, setup: RunnerSetup, count: int, runner: type[EnvRunner] = EnvRunner) -> None:
        self.members = [runner(setup, None, None) for _ in range(count)]
        self.nodes = Nodes(rest_s=0.0)
        self._collector = CollectorActor()
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(SameThread())
        self._tasks: set[UnitTask] = set()

    def __enter__(self) -> "LocalRunners":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop_collectors()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def deploy(self, deployment: Deployment) -> None:
        for runner in self.members:
            runner.deploy(deployment)

    def open(self, folder: StageFolder, committed: KeySet | None = None) -> None:
        self._collector.open(folder, committed)

    def deliver(self, episodes: Sequence[Episode]) -> None:
        self._collector.add(episodes)

    def where(self, runner: EnvRunner) -> str:
        return HERE

    def flush(self) -> None:
        self._collector.flush()

    def drop_collectors(self) -> None:
        # The loop's own are what was interrupted while it waited.
        tasks = {*self._tasks, *asyncio.all_tasks(self._loop)}
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        # An interruption may leave behind the loop's own order to stop, which would end this wait.
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()
        self._loop.run_until_complete(_ended(tasks))

    def start(self, runner: EnvRunner, unit: Unit) -> UnitTask:
        task = self._loop.create_task(runner.run(unit, self._deliver))
        self._tasks.add(task)
        return task

    def finished(self, under_way: Collection[UnitTask], timeout_s: float) -> Sequence[UnitTask]:
        if not under_way:
            return []
        waiting = asyncio.wait(under_way, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        tasks, _ = self._loop.run_until_complete(waiting)
        return list(tasks)

    def report(self, under_way: UnitTask) -> Totals:
        self._tasks.discard(under_way)
        try:
            return under_way.result()
        except (UsageError, StoreFailure, UnitBroken):
            raise
        except Exception as error:  # a boundary: whatever failed is this unit's, as in an actor
            cause = innermost(error)
            raise UnitFailed(f"{type(cause).__name__}: {cause}") from error

    def replace(self, runner: EnvRunner, avoid: Collection[str] = (), on: str = "") -> None:
        """Nothing: an object does not die before its process."""

    def last_words(self) -> str:
        return ""

    async def _deliver(self, episodes: Sequence[Episode]) -> int:
        return self._collector.add(episodes)


async def _ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait for them; their errors count as read, since nobody else asks for them."""
    await asyncio.gather(*tasks, return_exceptions=True)
