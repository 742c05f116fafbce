"""Where a Ray actor lives, and what it last said: the log of a dead process goes to the run
directory, its last lines to the user.

Everything here is for people: whatever cannot be learned is left out, and nothing waits long.
"""

import socket
import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SHOWN_LINES = 20
_KEPT_BYTES = 1 << 20
_DEADLINE_S = 10.0
"""For a node to hand over a log; it may be gone with the process."""


@dataclass(frozen=True)
class Place:
    """A process of the cluster."""

    node_id: str
    host: str
    pid: int
    dead: bool = False

    @property
    def node(self) -> str:
        """The node's name for people, unique in a cluster."""
        return f"{self.host}:{self.node_id[:8]}"

    @property
    def process(self) -> str:
        """The process in words."""
        return f"process {self.pid} on {self.node}"


def here(pid: int) -> Place:
    """The place of the actor that calls this."""
    return Place(ray.get_runtime_context().get_node_id(), socket.gethostname(), pid)


def place_of(actor: Any) -> Place | None:
    """Where Ray put an actor, alive or dead; None where it does not know."""
    from ray._private import state  # the public door needs Ray's dashboard

    return _place(state.actors(actor._actor_id.hex()))


def place_at(actor: Any, pid: int) -> Place | None:
    """The place of an actor that has just said its process id: Ray may not know its restart yet."""
    place = place_of(actor)
    return replace(place, pid=pid, dead=False) if place else None


def actors_of(class_name: str, died: bool = False) -> list[Place]:
    """The places of this driver's actors of a class, in the order of their starts. `died`: only
    those that nobody ended.
    """
    from ray._private import state

    job = ray.get_runtime_context().get_job_id()
    actors = [
        actor
        for actor in state.actors().values()
        if actor["JobID"] == job and actor["ActorClassName"] == class_name
    ]
    actors.sort(key=lambda actor: actor["StartTime"])
    places = [_place(actor) for actor in actors if not died or _died_by_itself(actor["DeathCause"])]
    return [place for place in places if place is not None]


def _place(actor: Any) -> Place | None:
    if not actor or not actor["Pid"]:
        return None
    address = actor["Address"]
    host = {n["NodeID"]: n["NodeManagerHostname"] for n in ray.nodes()}.get(address["NodeID"])
    return Place(
        address["NodeID"], host or address["IPAddress"], actor["Pid"], actor["State"] == "DEAD"
    )


def _died_by_itself(cause: Any) -> bool:
    """Whether Ray's account of an actor's end names neither a kill nor an owner that let go."""
    from ray.core.generated.common_pb2 import ActorDiedErrorContext

    if cause is None or cause.HasField("oom_context"):
        return cause is not None
    by_itself = (ActorDiedErrorContext.WORKER_DIED, ActorDiedErrorContext.NODE_DIED)
    has_context = cause.HasField("actor_died_error_context")
    return has_context and cause.actor_died_error_context.reason in by_itself


def last_words(place: Place, role: str, logs: Path | None) -> str:
    """The last lines of a dead process's log, which is copied to `logs`; empty without any."""
    strategy = NodeAffinitySchedulingStrategy(place.node_id, soft=False)
    try:
        log_task = ray.remote(_log_of).options(
            num_cpus=0, max_retries=0, scheduling_strategy=strategy
        )
        log = ray.get(log_task.remote(place.pid), timeout=_DEADLINE_S)
    except RayError:
        return ""
    if not log.strip():
        return ""
    copy_note = ""
    if logs is not None:
        path = logs / f"{role.replace(' ', '_')}-{place.node.replace(':', '-')}-{place.pid}.log"
        path.write_text(log, encoding="utf-8")
        copy_note = f", whole in {path}"
    lines = log.rstrip().splitlines()[-SHOWN_LINES:]
    return "\n  ".join([f"log of the {role}, {place.process}{copy_note}:", *lines])


def words_later(place: Place, role: str, logs: Path | None) -> "Future[str]":
    """As `last_words`, for a caller that does not wait."""
    words: Future[str] = Future()

    def read() -> None:
        try:
            words.set_result(last_words(place, role, logs))
        except Exception as error:  # a boundary: Ray may have ended meanwhile
            words.set_exception(error)

    threading.Thread(target=read, daemon=True, name="post-mortem").start()
    return words


def said_by_now(words: "Future[str] | None") -> str:
    """What came of `words_later`, after a wait of at most as long as a node may take."""
    if words is None:
        return ""
    try:
        return words.result(2 * _DEADLINE_S)
    except Exception:  # what cannot be learned is left out
        return ""


def _log_of(pid: int) -> str:
    """What a worker process of this node wrote, the end of it where it is long."""
    from ray._private import worker

    folder = Path(worker._global_node.get_logs_dir_path())
    parts = []
    for kind in ("out", "err"):
        for path in sorted(folder.glob(f"worker-*-{pid}.{kind}")):
            with path.open("rb") as log:
                log.seek(max(0, path.stat().st_size - _KEPT_BYTES))
                parts.append(log.read().decode("utf-8", "replace"))
    return "".join(parts)
