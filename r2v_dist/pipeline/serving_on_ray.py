"""`r2v serve --executor ray-serve`: the same ASGI application as a deployment of Ray Serve.

Invariant: there is one replica, because what the gateway remembers, counts and logs is in one
process; and whatever was started here ends with the command, so a cluster on which somebody else's
Ray Serve runs is refused.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from r2v_dist.errors import RuntimeFailure, UsageError, warn
from r2v_dist.pipeline.served_models import Calls, engines
from r2v_dist.pipeline.serving import ServedRun, access_of, application
from r2v_dist.serving.server import listen

if TYPE_CHECKING:
    from starlette.applications import Starlette

_NAME = "r2v"
_MOST_ONGOING = 10_000
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
_CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")


class ServedGateway:
    """What the replica is made of. Keys are read from its environment, not sent to it; `guarded`
    says that there must be some."""

    def __init__(self, served: ServedRun, host: str, guarded: bool, calls: Calls) -> None:
        self._served = served
        self._host = host
        self._guarded = guarded
        self._calls = calls

    def __serve_build_asgi_app__(self) -> "Starlette":  # the name is Ray Serve's
        config = self._served.config
        access = access_of(config, self._host)
        if self._guarded and not access.guarded:
            raise UsageError(
                f"the node of the replica has no {config.serve.keys_env} in its environment, so "
                f"anybody could ask; set it where Ray is started"
            )
        return application(self._served, access, self._calls)[0]


@contextlib.contextmanager
def served_on_ray(served: ServedRun, host: str, port: int) -> Iterator[int]:
    """The gateway answers at the port that comes, while the block runs. Raises UsageError where
    the address cannot be had or the cluster has a Ray Serve already, RuntimeFailure where it does
    not start."""
    with listen(host, port) as probe:
        port = probe.getsockname()[1]
    with engines(served, under_ray=True) as calls:
        from ray import serve
        from ray.exceptions import RayError

        _require_no_other(served.config.cluster.address)
        try:
            _start(served, host, port, calls)
            yield port
        finally:
            with contextlib.suppress(RayError):
                serve.shutdown()


def _start(served: ServedRun, host: str, port: int, calls: Calls) -> None:
    """Ray Serve's own calls have no deadline, so they are made by a thread that is waited for."""
    from ray.exceptions import RayError

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    results: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def start() -> None:
        try:
            _run(served, host, port, calls)
        except Exception as error:  # a boundary: whoever waits raises it
            results.put(error)
        else:
            results.put(None)

    threading.Thread(target=start, daemon=True, name="ray-serve").start()
    deadline_s = served.config.cluster.engine_start_deadline_s
    try:
        error = results.get(timeout=deadline_s)
    except queue.Empty:
        message = (
            f"Ray Serve has not started the gateway within {deadline_s:g} s "
            f"(cluster.engine_start_deadline_s)"
        )
        warn(message)  # Ray ends the process, silently, if the thread calls it after its shutdown
        raise RuntimeFailure(message) from None
    if isinstance(error, RayError | RuntimeError):
        message = " ".join(str(error).split())[:300]
        raise RuntimeFailure(f"Ray Serve does not start the gateway: {message}") from None
    if error is not None:
        raise error


def _run(served: ServedRun, host: str, port: int, calls: Calls) -> None:
    from ray import serve

    address = {"host": host, "port": port}
    serve.start(proxy_location="HeadOnly", http_options=address, logging_config=_QUIET)
    serve.run(_deployment(served, host, calls), name=_NAME, route_prefix="/")


def _deployment(served: ServedRun, host: str, calls: Calls) -> Any:
    from ray import serve

    guarded = access_of(served.config, host).guarded
    replica = serve.deployment(
        name="gateway",
        num_replicas=1,
        max_ongoing_requests=_MOST_ONGOING,
        graceful_shutdown_timeout_s=served.config.serve.grace_s,
        ray_actor_options={"num_cpus": 0},
        logging_config=_QUIET,
    )
    return replica(serve.ingress()(ServedGateway)).bind(served, host, guarded, calls)


def _require_no_other(address: str) -> None:
    import ray

    with contextlib.suppress(ValueError):  # which says that there is none
        ray.get_actor(*_CONTROLLER)
        raise UsageError(
            f"cluster.address = {address}: Ray Serve runs there already, and would end with this "
            f"gateway; leave out --executor ray-serve"
        )


def wait_for_a_signal() -> None:
    """Return on SIGTERM or SIGINT."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
