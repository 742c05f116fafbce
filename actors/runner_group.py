"""The env runners of a run, the model servers they call, the collector they fill: kept from stage
to stage, replaced when they die.
"""

import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from actors.collector import CollectorActor
from actors.env_runner import EnvRunner, Equipment, RunnerSetup
from actors.ray_errors import first_cause, usage_error
from actors.vllm.server_handle import EngineHandle, ModelServer
from r2v_dist.errors import RuntimeFailure

EQUIP_DEADLINE_S = 300.0
RUNNER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


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

    @property
    def collector(self) -> Any:
        """The collector, started when it is first needed."""
        if self._collector is None:
            self._collector = ray.remote(CollectorActor).options(num_cpus=0).remote()
        return self._collector

    def equip(self, equipment: Equipment) -> None:
        """Hand every runner, and every later one, what has been trained since they started. One
        that died meanwhile is replaced.

        Raises UsageError for what a runner refuses, RuntimeFailure for one that cannot take it.
        """
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
        """Bring back the model servers that died; True when one had."""
        healed = [server.heal() for server in (self._slm, self._teacher) if server is not None]
        return any(healed)

    def replace(self, runner: Any) -> None:
        """A new runner in place of one that is dead or holds dead handles."""
        ray.kill(runner)
        self.members[self.members.index(runner)] = self._start()

    def renew(self) -> None:
        """New runners in place of all: these hold handles of an engine that is no more."""
        for runner in list(self.members):
            self.replace(runner)

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

    def _start(self) -> Any:
        slm = EngineHandle(self._slm.actor) if self._slm else None
        teacher = EngineHandle(self._teacher.actor) if self._teacher else None
        # Without `num_cpus` Ray asks for one core to place a runner and for none while it lives, so
        # that a learner finds the cores of runners that wait for the next stage.
        options = {
            "max_concurrency": self._in_flight + 1,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": RUNNER_ENVIRONMENT},
        }
        return (
            ray.remote(EnvRunner)
            .options(**options)
            .remote(self._setup, slm, teacher, self._equipment)
        )
