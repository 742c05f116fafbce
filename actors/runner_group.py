"""Env runners as Ray actors, the model servers they call, the collector they fill: kept from stage
to stage, replaced when they die.
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from actors.collector import CollectorActor
from actors.env_runner import EnvRunner, Equipment, RunnerSetup
from actors.ray_errors import cause_of, died, first_cause, unit_failure, usage_error
from actors.runners import CollectorLost
from actors.totals import Totals
from actors.vllm.server_handle import ModelServer
from cluster import environment
from r2v_dist.episodes import Episode, Unit
from r2v_dist.errors import RuntimeFailure, StoreFailure
from r2v_dist.storage.fence import Fence

EQUIP_DEADLINE_S = 300.0
COMMIT_DEADLINE_S = 120.0


class CollectorHandle:
    """Delivers episodes to the collector actor and waits until it has taken them. Picklable."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def __call__(self, episodes: Sequence[Episode]) -> int:
        try:
            taken: int = await self._actor.add.remote(episodes)
        except RayActorError as error:
            if not died(error):
                raise
            raise CollectorLost(first_cause(error)) from None
        return taken


class RunnerGroup:
    """Starts `count` runners at once and does not wait for them. A server is None where a role
    needs none.
    """

    def __init__(
        self,
        setup: RunnerSetup,
        slm: ModelServer | None,
        teacher: ModelServer | None,
        count: int,
        in_flight: int,
    ) -> None:
        self._setup = setup
        self._slm = slm
        self._teacher = teacher
        self._in_flight = in_flight
        self._equipment: Equipment | None = None
        self.members: list[Any] = [self._start() for _ in range(count)]
        self._collector: Any = None
        self._folder = Path()

    def open(
        self, folder: Path, shard_episodes: int, shard_seconds: float, fence: Fence | None
    ) -> None:
        """Begin a stage's folder; starts the collector where there is none."""
        if self._collector is None:
            self._collector = ray.remote(CollectorActor).options(num_cpus=0).remote()
        self._folder = folder
        self._collected(self._collector.open.remote(folder, shard_episodes, shard_seconds, fence))

    def flush(self) -> None:
        self._collected(self._collector.flush.remote())

    def start(self, runner: Any, unit: Unit) -> Any:
        return runner.run.remote(unit, CollectorHandle(self._collector))

    def finished(self, under_way: Collection[Any], timeout_s: float) -> Sequence[Any]:
        for server in (self._slm, self._teacher):
            if server is not None:
                server.check()
        ready, _ = ray.wait(list(under_way), timeout=timeout_s)
        return list(ready)

    def report(self, under_way: Any) -> Totals:
        try:
            report: Totals = ray.get(under_way)
        except RayError as error:
            raise unit_failure(error) from None
        return report

    def equip(self, equipment: Equipment) -> None:
        """Hand it to every runner; one that died meanwhile is replaced."""
        self._equipment = equipment
        deadline = time.monotonic() + EQUIP_DEADLINE_S
        asked = [(runner, runner.equip.remote(equipment)) for runner in self.members]
        for runner, answer in asked:
            try:
                ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
            except GetTimeoutError:
                problem = f"no answer within {EQUIP_DEADLINE_S:.0f} s; Ray's log is in the run directory: logs/ray.log"
                raise RuntimeFailure(f"the env runners did not start: {problem}") from None
            except RayError as error:
                if refused := usage_error(error):
                    raise refused from None
                if not isinstance(error, RayActorError):
                    raise RuntimeFailure(
                        f"an env runner cannot be equipped: {first_cause(error)}"
                    ) from None
                self.replace(runner)

    def heal_servers(self) -> bool:
        """False: engines are brought back by their own watch, and runners' handles stay valid."""
        return False

    def replace(self, runner: Any) -> None:
        """A new runner in place of one that is dead or holds dead handles."""
        ray.kill(runner)
        self.members[self.members.index(runner)] = self._start()

    def drop_collector(self) -> None:
        """End the collector; what is still delivered to it goes nowhere."""
        if self._collector is not None:
            ray.kill(self._collector)
            self._collector = None

    def stop(self) -> None:
        """End the processes of runners and collector; the servers belong to the caller."""
        self.drop_collector()
        for runner in self.members:
            ray.kill(runner)

    def _collected(self, answer: Any) -> None:
        """Wait for the collector's answer."""
        try:
            ray.get(answer, timeout=COMMIT_DEADLINE_S)
        except RayError as error:
            problem = f"the collector of {self._folder} failed: {first_cause(error)}"
            kind = CollectorLost if died(error) else RuntimeFailure
            refused = cause_of(error, StoreFailure) or usage_error(error)
            raise refused or kind(problem) from None

    def _start(self) -> Any:
        slm = self._slm.handles() if self._slm else None
        teacher = self._teacher.handles() if self._teacher else None
        # Without `num_cpus` Ray asks for one core to place a runner and for none while it lives, so
        # that a learner finds the cores of runners that wait for the next stage.
        options = {
            "max_concurrency": self._in_flight + 1,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": environment.RUNNER},
        }
        return (
            ray.remote(EnvRunner)
            .options(**options)
            .remote(self._setup, slm, teacher, self._equipment)
        )
