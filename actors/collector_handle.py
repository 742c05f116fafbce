"""The collector actor as runners and driver see it: what it does not do in time, it does not do."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from actors.collector import CollectorActor
from actors.failures import CollectorLost
from actors.post_mortem import last_words, place_of
from actors.ray_errors import cause_of, died, first_cause, usage_error
from r2v_dist import object_store
from r2v_dist.episodes import Episode
from r2v_dist.errors import RuntimeFailure, StoreFailure
from r2v_dist.storage.fence import Fence


class CollectorHandle:
    """Delivers episodes from inside a runner and waits until they are taken. Picklable."""

    def __init__(self, actor: Any, deadline_s: float) -> None:
        self._actor = actor
        self._deadline_s = deadline_s

    async def __call__(self, episodes: Sequence[Episode]) -> int:
        try:
            async with asyncio.timeout(self._deadline_s):
                taken: int = await self._actor.add.remote(episodes)
        except TimeoutError:
            raise CollectorLost(_late(self._deadline_s)) from None
        except RayActorError as error:
            if not died(error):
                raise
            raise CollectorLost(f"the collector's process died: {first_cause(error)}") from None
        return taken


class RayCollector:
    """Owns the collector's process, which is started when a stage needs it."""

    def __init__(self, deadline_s: float, logs: Path | None) -> None:
        self._deadline_s = deadline_s
        self._logs = logs
        self._actor: Any = None
        self.said = ""
        """The last log lines of a process that died in this stage."""
        self._folder = Path()

    @property
    def handle(self) -> CollectorHandle:
        """What a runner gets."""
        return CollectorHandle(self._actor, self._deadline_s)

    def open(
        self, folder: Path, shard_episodes: int, shard_seconds: float, fence: Fence | None
    ) -> None:
        """Begin a stage's folder; starts the process where there is none."""
        if self._actor is None:
            options: dict[str, Any] = {"num_cpus": 0}
            if variables := object_store.variables():
                options["runtime_env"] = {"env_vars": variables}
            self._actor = ray.remote(CollectorActor).options(**options).remote()
        self._folder = folder
        self._wait(self._actor.open.remote(folder, shard_episodes, shard_seconds, fence))

    def deliver(self, episodes: Sequence[Episode]) -> None:
        """Hand it episodes."""
        self._wait(self._actor.add.remote(episodes))

    def flush(self) -> None:
        """Return when everything that was delivered is on disk."""
        self._wait(self._actor.flush.remote())

    def drop(self) -> None:
        """End the process; what is still delivered to it goes nowhere."""
        if self._actor is None:
            return
        if (place := place_of(self._actor)) and place.dead:
            self.said = last_words(place, "collector", self._logs)
        ray.kill(self._actor)
        self._actor = None

    def _wait(self, answer: Any) -> None:
        try:
            ray.get(answer, timeout=self._deadline_s)
        except GetTimeoutError:
            raise CollectorLost(_late(self._deadline_s)) from None
        except RayError as error:
            problem = f"the collector of {self._folder} failed: {first_cause(error)}"
            kind = CollectorLost if died(error) else RuntimeFailure
            refused = cause_of(error, StoreFailure) or usage_error(error)
            raise refused or kind(problem) from None


def _late(deadline_s: float) -> str:
    return f"the collector took no episodes within {deadline_s:g} s (cluster.commit_deadline_s)"
