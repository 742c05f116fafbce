"""The collector actors as runners and driver see them: what is not done in time is not done.

Invariant: all episodes of a task go to the same collector of a stage, so that each alone sees to it
that none of its episodes is committed twice.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from actors.collector import CollectorActor, StageFolder
from actors.failures import CollectorLost
from actors.metrics import OFF, Meter
from actors.ray_errors import cause_of, died, first_cause, usage_error
from cluster.post_mortem import last_words, place_of
from r2v_dist.episodes import Episode
from r2v_dist.errors import RuntimeFailure, StoreFailure
from r2v_dist.object_storage import object_store
from r2v_dist.seeding import stable_hash
from r2v_dist.storage.key_set import KeySet


def place_for(task: str, collectors: int) -> int:
    """Which of so many collectors takes a task's episodes; the same in every process."""
    return stable_hash("collector", task) % collectors


class CollectorHandle:
    """Delivers episodes of one unit from inside a runner and waits until they are taken.
    Picklable.
    """

    def __init__(self, actors: Sequence[Any], deadline_s: float) -> None:
        self._actors = actors
        self._deadline_s = deadline_s

    async def __call__(self, episodes: Sequence[Episode]) -> int:
        try:
            async with asyncio.timeout(self._deadline_s):
                count: int = await _add(self._actors, episodes)
        except TimeoutError:
            raise CollectorLost(_late(self._deadline_s)) from None
        except RayActorError as error:
            if not died(error):
                raise
            raise CollectorLost(f"a collector's process died: {first_cause(error)}") from None
        return count


class RayCollectors:
    """Owns the processes of `count` collectors, which are started when a stage needs them."""

    def __init__(
        self, count: int, deadline_s: float, logs: Path | None, meter: Meter = OFF
    ) -> None:
        self._count = count
        self._deadline_s = deadline_s
        self._logs = logs
        self._meter = meter
        self._actors: list[Any] = []
        self.said = ""
        """The last log lines of a process that died in this stage."""
        self._folder = Path()

    @property
    def handle(self) -> CollectorHandle:
        """What a runner gets."""
        return CollectorHandle(self._actors, self._deadline_s)

    def open(self, folder: StageFolder, committed: KeySet | None = None) -> None:
        """Begin a stage's folder; starts the processes where there are none."""
        if not self._actors:
            options: dict[str, Any] = {"num_cpus": 0}
            if variables := object_store.variables():
                options["runtime_env"] = {"env_vars": variables}
            remote = ray.remote(CollectorActor).options(**options)
            self._actors = [remote.remote(self._meter) for _ in range(self._count)]
        self._folder = folder.path
        self.said = ""
        committed_ref = ray.put(committed)  # once for all of a machine
        self._wait([actor.open.remote(folder, committed_ref) for actor in self._actors])

    def deliver(self, episodes: Sequence[Episode]) -> None:
        """Hand over episodes of one unit."""
        self._wait([_add(self._actors, episodes)])

    def flush(self) -> None:
        """Return when everything that was delivered is on disk."""
        self._wait([actor.flush.remote() for actor in self._actors])

    def drop(self) -> None:
        """End the processes; what is still delivered to them goes nowhere."""
        for actor in self._actors:
            if (place := place_of(actor)) and place.dead:
                self.said = last_words(place, "collector", self._logs)
            ray.kill(actor)
        self._actors = []

    def _wait(self, answers: list[Any]) -> None:
        try:
            ray.get(answers, timeout=self._deadline_s)
        except GetTimeoutError:
            raise CollectorLost(_late(self._deadline_s)) from None
        except RayError as error:
            problem = f"a collector of {self._folder} failed: {first_cause(error)}"
            kind = CollectorLost if died(error) else RuntimeFailure
            refusal = cause_of(error, StoreFailure) or usage_error(error)
            raise refusal or kind(problem) from None


def _add(actors: Sequence[Any], episodes: Sequence[Episode]) -> Any:
    """Hand episodes of one unit to the collector for their task."""
    return actors[place_for(episodes[0].key.task, len(actors))].add.remote(episodes)


def _late(deadline_s: float) -> str:
    return f"a collector took no episodes within {deadline_s:g} s (cluster.commit_deadline_s)"
