"""A Ray session that always ends: started here or joined, and shut down when the run is over,
however it ends.

Only the configuration decides where Ray runs. An empty address starts it on this machine, whatever
RAY_ADDRESS or the traces of another cluster say. Starting and joining have deadlines of ours, since
Ray's own calls may wait for ever.
"""

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from cluster import environment, resources
from cluster.guard import end_at_once, end_processes, guarded, interrupt_on_sigterm, undisturbed
from cluster.scraping import forget_targets, write_targets
from r2v_dist.config.cluster import ClusterConfig
from r2v_dist.errors import RuntimeFailure, UsageError, warn
from r2v_dist.processes.child import child_command, child_environment

START_DEADLINE_S = 240.0
"""Of one try to start Ray here; on a busy machine Ray's own limit of 30 s is too short."""
START_TRIES = 4
"""A raylet waits 15 s for its agent and then ends; no option changes that, and a busy machine needs
longer. Each try finds more of what is read in memory."""
JOIN_DEADLINE_S = 90.0
CONNECT_DEADLINE_S = 10.0

_OF_THE_SHELL = re.compile(r"[\s\"'$&;()|<>*?`\\#]")
_JOIN = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
ray.cluster_resources()
ray.shutdown()
"""


@contextlib.contextmanager
def ray_session(config: ClusterConfig, logs: Path) -> Iterator[None]:
    """Join the cluster at `config.address`, or start Ray on this machine for this process
    and its children alone.

    What Ray itself has to say goes to `logs`. SIGINT and SIGTERM end the block, and the process if
    the block does not. Raises RuntimeFailure when the cluster cannot be reached, UsageError where
    Ray cannot run.
    """
    if problem := path_problem():
        raise UsageError(problem)
    logs.mkdir(parents=True, exist_ok=True)
    for name, value in environment.of_driver(config).items():
        os.environ.setdefault(name, value)
    with guarded(), _own_log(logs / "ray.log"):
        import ray
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")  # whether there are tokens was read when Ray was imported
        try:
            _begin(config)
            write_targets(config, logs)
            interrupt_on_sigterm()  # Ray's own handler aborts the process with a stack trace
            resources.begin(config, logs)
            (logs / "ray_session.txt").write_text(
                f"{ray.get_runtime_context().gcs_address}\n", encoding="utf-8"
            )
            yield
        finally:
            resources.end()
            forget_targets(logs)
            with undisturbed():
                ray.shutdown()


def path_problem() -> str:
    """Why Ray could not start workers from this environment's path; empty where it can."""
    path = sys.executable
    match = _OF_THE_SHELL.search(path)
    if match is None:
        return ""
    character = "a space" if match.group().isspace() else f"the character {match.group()}"
    fix = "make the environment elsewhere: make setup VENV=/path/without/it"
    return f"{path}: Ray cannot start workers from a path with {character}; {fix}"


def _begin(config: ClusterConfig) -> None:
    """Have Ray running and joined when this returns."""
    if config.address:
        _require_answer(config.address)
        _start(f"cluster.address = {config.address}", JOIN_DEADLINE_S, address=config.address)
        return
    # Workers and Ray's tools read it too, and would look for a cluster that is not this one.
    os.environ.pop("RAY_ADDRESS", None)
    for attempt in range(1, START_TRIES + 1):
        try:
            _start_here(config)
            return
        except RuntimeFailure as error:
            if attempt == START_TRIES:
                raise RuntimeFailure(
                    f"{error} ({START_TRIES} tries; if the machine is busy, run the same command "
                    f"later)"
                ) from None
            warn(f"Ray did not start; try {attempt + 1} of {START_TRIES}")


def _start_here(config: ClusterConfig) -> None:
    """Start Ray on this machine; where that fails or is interrupted, nothing of it stays."""
    import ray

    before = set(psutil.Process().children(recursive=True))
    try:
        _start(
            "cluster.address = local",
            START_DEADLINE_S,
            address="local",
            num_cpus=config.num_cpus,
            include_dashboard=False,
            _metrics_export_port=config.metrics.port,
        )
    except (RuntimeFailure, KeyboardInterrupt):
        with undisturbed():
            # Ray ends the raylet; the raylet's agents outlive it, and are then nobody's children.
            begun = set(psutil.Process().children(recursive=True)) - before
            ray.shutdown()
            end_processes(begun)
        raise


def _start(where: str, deadline_s: float, **options: Any) -> None:
    """`ray.init`, or RuntimeFailure. Where it neither returns nor raises, the process ends after
    the deadline.
    """
    import ray

    message = f"{where}: Ray did not start within {deadline_s:.0f} s"
    watchdog = threading.Timer(deadline_s, end_at_once, (1, message))
    watchdog.daemon = True
    watchdog.start()
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    except SystemExit:  # what Ray makes of SIGTERM while it starts
        raise KeyboardInterrupt from None
    # A boundary: a node that starts too slowly is a bare Exception of Ray's.
    except Exception as error:
        raise RuntimeFailure(
            f"{where}: Ray cannot be reached: {' '.join(str(error).split())[:300]}"
        ) from None
    finally:
        watchdog.cancel()


def _require_answer(address: str) -> None:
    """Join in another process first: where nothing answers, Ray's own call neither returns nor can
    be interrupted.
    """
    where = f"cluster.address = {address}"
    ray_address = os.environ.get("RAY_ADDRESS", "")
    target = ray_address if address == "auto" and ray_address else address
    if target != address:
        where += f" (RAY_ADDRESS = {target})"
    _require_listener(where, target)
    command = child_command("-c", _JOIN, address)
    try:
        child = subprocess.run(
            command,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=JOIN_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        problem = (
            f"Ray did not answer within {JOIN_DEADLINE_S:.0f} s; is the cluster up, and "
            "is this Ray's port?"
        )
        raise RuntimeFailure(f"{where}: {problem}") from None
    if child.returncode:
        lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
        raise RuntimeFailure(
            f"{where}: Ray cannot be reached: "
            f"{lines[-1][:300] if lines else f'exit code {child.returncode}'}"
        )


def _require_listener(where: str, target: str) -> None:
    host, _, port = target.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return  # a name that Ray resolves itself, such as auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_DEADLINE_S).close()
    except OSError as error:
        raise RuntimeFailure(
            f"{where}: nothing answers there ({error}); start the cluster or correct the address"
        ) from None


@contextlib.contextmanager
def _own_log(path: Path) -> Iterator[None]:
    """Keep Ray's messages out of the user's output: each death of a worker is a kilobyte, in
    colours.
    """
    import ray  # adds its handlers to its logger
    from ray._private import worker

    original_print = worker.print_to_stdstream
    logger = logging.getLogger(ray.__name__)
    handlers = logger.handlers[:]
    with path.open("a", encoding="utf-8") as log:

        def keep(data: dict[str, Any], *_: Any, **__: Any) -> None:
            if not log.closed:
                log.write("".join(f"{line}\n" for line in data["lines"]))
                log.flush()

        worker.print_to_stdstream = keep  # there is no option for what the raylet says
        logger.handlers[:] = [logging.StreamHandler(log)]
        try:
            yield
        finally:
            worker.print_to_stdstream = original_print
            logger.handlers[:] = handlers
