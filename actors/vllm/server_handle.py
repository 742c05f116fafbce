"""Model servers as the driver sees them: started once, brought back when they die, always at the
version asked for.
"""

from collections.abc import AsyncIterator
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from actors.ray_errors import first_cause, usage_error
from actors.vllm.engine import Arrived, EngineRequest, VllmServer
from cluster import environment, resources
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import RuntimeFailure
from r2v_dist.storage.checkpoints import Checkpoint

START_DEADLINE_S = 600.0
LOAD_DEADLINE_S = 300.0


class ModelServer:
    """Owns one vLLM actor. `start` returns at once; `wait` blocks until the engine answers. On GPUs
    it starts when `after` answers.
    """

    def __init__(
        self,
        role: str,
        config: ModelConfig,
        checkpoint: Checkpoint,
        after: "ModelServer | None" = None,
    ) -> None:
        self._role = role
        self._config = config
        self._after = after
        self.checkpoint = checkpoint
        self.start()

    def start(self) -> None:
        """Start the engine's process without waiting for it."""
        gpus = resources.gpu_share(self._config.gpus)
        self.actor: Any = (
            ray.remote(VllmServer)
            .options(
                num_cpus=0,
                num_gpus=gpus,
                max_concurrency=1024,
                runtime_env={"env_vars": environment.of_engine(gpus > 0) | resources.variables()},
            )
            # An engine measures how much of its GPU is free; what starts beside it meanwhile would
            # mislead both.
            .remote(
                self._config,
                self.checkpoint.path,
                self.checkpoint.version,
                self._after._ready if self._after and gpus else "",
            )
        )
        self._ready: Any = self.actor.ready.remote()

    def wait(self) -> None:
        """Return when the engine answers. Raises RuntimeFailure with the first cause."""
        try:
            version = ray.get(self._ready, timeout=START_DEADLINE_S)
            if version != self.checkpoint.version:
                self._load()
        except RayError as error:
            problem = f"the {self._role} engine for {self.checkpoint.path} did not start: {first_cause(error)}"
            raise usage_error(error) or RuntimeFailure(problem) from None

    def load(self, checkpoint: Checkpoint) -> bool:
        """Replace the weights in place; True when the engine had died meanwhile and was started
        anew with them.
        """
        if checkpoint == self.checkpoint:
            return False
        self.wait()
        self.checkpoint = checkpoint
        return self._load()

    def heal(self) -> bool:
        """Start the engine anew if it no longer answers; True when it had to."""
        try:
            ray.get(self.actor.ready.remote(), timeout=60.0)
        except RayError:
            self.stop()
            self.start()
            self.wait()
            return True
        return False

    def stop(self) -> None:
        """End the engine's processes."""
        ray.kill(self.actor)

    def _load(self) -> bool:
        try:
            ray.get(
                self.actor.load.remote(self.checkpoint.path, self.checkpoint.version),
                timeout=LOAD_DEADLINE_S,
            )
        except RayActorError:
            self.stop()
            self.start()
            self.wait()
            return True
        except RayError as error:
            problem = f"the {self._role} engine could not load {self.checkpoint.path}: {first_cause(error)}"
            raise usage_error(error) or RuntimeFailure(problem) from None
        self._ready = self.actor.ready.remote()
        return False


class EngineHandle:
    """Calls an engine actor from inside another actor. Picklable, unlike a bound method."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def __call__(self, requests: list[EngineRequest]) -> AsyncIterator[Arrived]:
        """Send the requests; the iterator gives the answers as they come."""
        return _arriving(self._actor.stream.options(num_returns="streaming").remote(requests))


async def _arriving(references: Any) -> AsyncIterator[Arrived]:
    async for reference in references:
        yield await reference
