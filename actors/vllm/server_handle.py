"""The engines of a role as the driver sees them: started once, watched all the time, started again
when they die, always at the version asked for.

Invariant: an engine's handle is valid for the whole run. Ray starts its process again, the watch
has it serve the version that is wanted, and whoever asked a lost engine asks another one meanwhile;
so nobody but this module takes note of a death.
"""

import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray.exceptions import RayError

from actors.metrics import OFF, Meter
from actors.ray_errors import cause_of, died, first_cause
from actors.routing import ServerLost
from actors.vllm.engine import Arrived, EngineLost, EngineRequest, VllmEngine
from actors.vllm.engine_meter import EngineMeter
from actors.vllm.health import Verdict
from actors.vllm.replica import Replica
from actors.vllm.server import MakeEngine
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.storage.checkpoints import Checkpoint

_TURN_S = 0.2
"""Between two looks at engines that are waited for."""


class EngineHandle:
    """Calls an engine actor from inside another actor. Picklable, unlike a bound method."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def __call__(self, requests: list[EngineRequest]) -> AsyncIterator[Arrived]:
        """Send the requests; the iterator gives the answers as they come. Raises ServerLost where
        the engine is gone or not ready.
        """
        try:
            stream = self._actor.stream.options(num_returns="streaming").remote(requests)
            async for reference in stream:
                yield await reference
        except RayError as error:
            if (loss := cause_of(error, ServerLost)) is not None:
                raise loss from None
            if died(error):
                raise EngineLost(first_cause(error)) from None
            raise

    def cancel(self, request_id: str) -> None:
        """Have the engine stop its work on a request."""
        self._actor.cancel.remote(request_id)


class ModelServer:
    """The replicas of one role. Creating it returns at once; `wait` blocks until an engine answers.

    `make` makes the engine inside its actor; `adapter_rank` is the largest rank of an adapter that
    a checkpoint will have. A thread of this process watches the replicas until `stop`.
    """

    def __init__(
        self,
        role: str,
        config: ModelConfig,
        checkpoint: Checkpoint,
        cluster: ClusterConfig | None = None,
        make: MakeEngine = VllmEngine,
        adapter_rank: int = 0,
        meter: Meter = OFF,
    ) -> None:
        self._role = role
        self.config = config
        self._cluster = cluster or ClusterConfig()
        self.checkpoint = checkpoint
        self._failure: RuntimeFailure | UsageError | None = None
        self._lock = threading.RLock()
        """Of the replicas and the version that is wanted."""
        self._over = threading.Event()
        self._asleep = False
        """Whether engines sleep; one whose process died meanwhile stays empty until they wake."""
        names = [f"the {role} engine {number}" for number in range(config.replicas)]
        if config.replicas == 1:
            names = [f"the {role} engine"]
        self._replicas = [
            Replica(name, f"{role}-{number}", number, config, self._cluster, make, adapter_rank)
            for number, name in enumerate(names)
        ]
        self._meters = [EngineMeter(meter, role, str(number)) for number in range(config.replicas)]
        for replica in self._replicas:
            replica.serve(checkpoint)
        self._watcher = threading.Thread(target=self._watch, daemon=True, name=f"{role}-engines")
        self._watcher.start()

    @property
    def actors(self) -> list[Any]:
        """The engines' actors, by replica."""
        return [replica.actor for replica in self._replicas]

    @property
    def answers(self) -> bool:
        """Whether an engine answers as the version that is wanted."""
        return any(replica.serves == self.checkpoint.version for replica in self._replicas)

    @property
    def restarts(self) -> int:
        """Engines that were started again so far."""
        return sum(replica.restarts for replica in self._replicas)

    def handles(self) -> list[EngineHandle]:
        """What a runner calls the engines with; valid as long as this server."""
        return [EngineHandle(actor) for actor in self.actors]

    def check(self) -> None:
        """Raises RuntimeFailure or UsageError, with the first cause, where an engine will not come
        back.
        """
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Return when an engine answers as the version that is wanted; those that sleep wake.
        Raises as `check`, and RuntimeFailure after `engine_start_deadline_s`.
        """
        self._wake()
        limit_s = self._cluster.engine_start_deadline_s
        deadline = time.monotonic() + limit_s
        while not self.answers:
            self._settle(self._replicas)
            if time.monotonic() > deadline:
                replica = self._replicas[0]
                late = (
                    f"the {self._role} engine for {self.checkpoint.path} did not start within "
                    f"{limit_s:.0f} s (cluster.engine_start_deadline_s): {replica.said}"
                )
                raise RuntimeFailure(replica.told(late))

    def load(self, checkpoint: Checkpoint) -> None:
        """Have every engine answer with this checkpoint: weights are replaced in place, and an
        engine that does not manage within `engine_load_deadline_s` is started again with them.
        """
        with self._lock:
            if checkpoint == self.checkpoint:
                return
            self.checkpoint = checkpoint
            if self._asleep:
                return  # `wait` has them wake with it
            loading = [replica for replica in self._replicas if replica.serves]
            for replica in self._replicas:
                replica.serve(checkpoint)
        while late := [
            replica for replica in loading if replica.serves not in ("", checkpoint.version)
        ]:
            self._settle(late)
        self.wait()

    def sleep(self) -> None:
        """Return when no engine holds memory of a GPU any more. One that does not give it back
        within `engine_load_deadline_s` is ended. `wait` wakes them.
        """
        with self._lock:
            if self._asleep:
                return
            self._asleep = True
            calls = {replica.sleep(): replica for replica in self._replicas}
        limit_s = self._cluster.engine_load_deadline_s
        replies, late = ray.wait(list(calls), num_returns=len(calls), timeout=limit_s)
        with self._lock:
            for call in late:
                calls[call].restart(f"it did not give its memory back within {limit_s:g} s")
            for call in replies:
                try:
                    ray.get(call)
                except RayError as error:
                    if not died(error):  # what died holds no memory, and Ray starts it empty
                        calls[call].restart(f"it did not fall asleep: {first_cause(error)}")

    def _wake(self) -> None:
        with self._lock:
            if self._asleep:
                self._asleep = False
                for replica in self._replicas:
                    replica.wake(self.checkpoint)

    def stop(self) -> None:
        """End the engines' processes, and the watch."""
        self.stop_watch()
        for replica in self._replicas:
            replica.stop()

    def stop_watch(self) -> None:
        """End the watch. What dies from here on stays dead."""
        self._over.set()
        self._watcher.join()

    def _settle(self, replicas: list[Replica]) -> None:
        """Take note, after a moment, of the calls of `serve` that have ended. Raises as `check`."""
        self.check()
        with self._lock:
            calls = [replica.serving for replica in replicas if replica.serving is not None]
        if calls:
            ray.wait(calls, timeout=_TURN_S)
        else:
            self._over.wait(_TURN_S)
        with self._lock:
            for replica in replicas:
                if refusal := replica.settle():
                    self._failure = self._failure or refusal
        self.check()

    def _watch(self) -> None:
        try:
            while not self._over.is_set() and self._failure is None:
                with self._lock:
                    probes = [replica.ask_health() for replica in self._replicas]
                self._await_replies(probes)
                with self._lock:
                    for replica, meter in zip(self._replicas, self._meters, strict=True):
                        self._look_after(replica)
                        meter.record(replica.report, replica.restarts)
                    settled = self._asleep or all(replica.serves for replica in self._replicas)
                self._over.wait(self._cluster.engine_probe_deadline_s if settled else _TURN_S)
        except Exception as error:  # a boundary: whoever waits for an engine must learn of it
            if not self._over.is_set():
                self._failure = RuntimeFailure(
                    f"the watch of the {self._role} engines failed: {first_cause(error)}"
                )

    def _await_replies(self, probes: list[Any]) -> None:
        """Return when all have replied, or `engine_probe_deadline_s` has passed."""
        deadline = time.monotonic() + self._cluster.engine_probe_deadline_s
        while not self._over.is_set() and time.monotonic() < deadline:
            ready, _ = ray.wait(probes, num_returns=len(probes), timeout=_TURN_S)
            if len(ready) == len(probes):
                return

    def _look_after(self, replica: Replica) -> None:
        refusal = replica.settle()
        if refusal:
            self._failure = self._failure or refusal
        verdict = replica.judge(self.checkpoint.version)
        if verdict is Verdict.RESTART:
            replica.restart(replica.watch.problem)
        if reason := replica.hopeless(self._cluster.max_restarts):
            path = self.checkpoint.path
            self._failure = self._failure or RuntimeFailure(f"{replica.name} for {path} {reason}")
        elif verdict is Verdict.SERVE and replica.serving is None and not self._asleep:
            replica.serve(self.checkpoint)
