"""Model servers as the driver sees them: started once, brought back when they die, always at the version asked for."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError

from actors.vllm.engine import CPU_ENVIRONMENT, ENGINE_ENVIRONMENT, Arrived, EngineRequest, VllmServer
from r2v_dist.config.models import ModelConfig
from r2v_dist.errors import RuntimeFailure, UsageError

Cause = TypeVar("Cause", bound=BaseException)
START_DEADLINE_S = 600.0
LOAD_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face directory and the version under which its answers are stored."""

    path: str
    version: str


class ModelServer:
    """Owns one vLLM actor. `start` returns at once; `wait` blocks until the engine answers. On GPUs it starts when `after` answers."""

    def __init__(self, role: str, config: ModelConfig, checkpoint: Checkpoint, after: "ModelServer | None" = None) -> None:
        self._role, self._config, self._after = role, config, after
        self.checkpoint = checkpoint
        self.start()

    def start(self) -> None:
        """Start the engine's process without waiting for it."""
        gpus = self._config.gpus if ray.cluster_resources().get("GPU", 0) > 0 else 0
        environment = {**ENGINE_ENVIRONMENT, **({} if gpus else CPU_ENVIRONMENT)}
        self.actor: Any = (
            ray.remote(VllmServer)
            .options(num_cpus=0, num_gpus=gpus, max_concurrency=1024, runtime_env={"env_vars": environment})
            # An engine measures how much of its GPU is free; what starts beside it meanwhile would mislead both.
            .remote(self._config, self.checkpoint.path, self.checkpoint.version, self._after._ready if self._after and gpus else "")
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
        """Replace the weights in place; True when the engine had died meanwhile and was started anew with them."""
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
            ray.get(self.actor.load.remote(self.checkpoint.path, self.checkpoint.version), timeout=LOAD_DEADLINE_S)
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


def first_cause(error: BaseException) -> str:
    """The innermost reason of a Ray error in one line, without actor traces and colours."""
    cause = innermost(error)
    lines = [line.strip() for line in _COLOUR.sub("", str(cause)).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    # Ray's own errors end in the text of the error that caused them; others do not name their type.
    return (last if isinstance(cause, RayError) else f"{type(cause).__name__}: {last}")[:500]


def cause_of(error: BaseException, kind: type[Cause]) -> Cause | None:
    """The error of a kind that led to another one, in this process or in an actor; None without."""
    # What an actor raised is of its own kind and of Ray's at once; the bare one has no traces.
    bare = (cause for cause in _causes(error) if not isinstance(cause, RayError))
    return next((cause for cause in bare if isinstance(cause, kind)), None)


def innermost(error: BaseException) -> BaseException:
    """The error that caused the others."""
    return list(_causes(error))[-1]


def usage_error(error: BaseException) -> UsageError | None:
    """What our own code refused inside an actor, None for other failures. It is refused on every machine and every try."""
    if (cause := cause_of(error, UsageError)) is not None:
        return UsageError(str(cause))
    # Of an error in a constructor Ray keeps the text only.
    if isinstance(error, RayActorError) and error.actor_init_failed:
        _, refused, message = first_cause(error).partition(f"{UsageError.__module__}.{UsageError.__name__}: ")
        return UsageError(message) if refused else None
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        inner = getattr(cause, "cause", None) or cause.__cause__
        cause = inner if inner is not cause else None


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
