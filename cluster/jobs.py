"""Jobs on a Ray cluster: a run there outlives the machine that asked for it.

Invariant: a run directory has at most one job under way. Its id is a function of the configuration
and the run directory, and Ray takes an id once, so two clients cannot both start it. A job that has
ended is followed by another id of the same run, which resumes in its run directory.
"""

import asyncio
import contextlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.guard import GRACE_S
from cluster.package import CONFIG_FILE, Package
from cluster.submission import PREFIX
from r2v_dist.errors import RuntimeFailure, UsageError
from r2v_dist.object_storage.mirror import shown

_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
ENTRYPOINT = f"python -m r2v_dist.cli run {CONFIG_FILE}"
_POLL_S = 0.5
_STOP_WAIT_S = int(GRACE_S) + 5
"""Ray kills a stopped job after 3 s; a run ends in an orderly way within the guard's time."""


@dataclass(frozen=True)
class Driver:
    """What the driver of a job holds while it runs. All empty: it runs on the head node."""

    cpus: float = 0
    memory_gib: float = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A job of ours, as the cluster knows it. Times are seconds since the epoch."""

    id: str
    status: str
    run_dir: str
    started: float | None
    ended: float | None
    message: str

    @property
    def under_way(self) -> bool:
        """Whether it waits or runs."""
        return self.status in ("PENDING", "RUNNING")


@dataclass(frozen=True)
class Submitted:
    """The id of a run's job, and whether this submission started it."""

    id: str
    started: bool
    attempt: int


def dashboard_url(address: str) -> str:
    """The address of a cluster's job server. Raises UsageError for another kind of address."""
    url = address if "://" in address else f"http://{address}"
    problem = ""
    try:
        parts = urlsplit(url)
        parts.port  # reading it checks it
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problem = "not the address of a dashboard"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise UsageError(f"--address = {address}: {problem}; write for example http://HEAD:8265")
    return url.rstrip("/")


class Jobs:
    """The jobs of the cluster at `address`. Every request has a deadline of `timeout_s` seconds.

    Raises RuntimeFailure where the cluster does not answer, UsageError for an id it does not know.
    """

    def __init__(self, address: str, timeout_s: float) -> None:
        self._url = dashboard_url(address)
        self._timeout_s = timeout_s
        # Ray lets them override what the user names here.
        for variable in _ADDRESS_VARIABLES:
            os.environ.pop(variable, None)
        with self._boundary():
            self._client = _client(self._url, timeout_s)

    def submit(self, first_id: str, run_dir: Path, package: Package, driver: Driver) -> Submitted:
        """Start the run's next job, unless one is under way.

        Raises UsageError where another run's job is under way in its run directory.
        """
        jobs = self.listed()
        attempts = [job for job in jobs if _attempt(job.id, first_id)]
        for job in jobs:
            if job.under_way and job in attempts:
                return Submitted(job.id, False, _attempt(job.id, first_id))
            if job.under_way and job.run_dir == shown(run_dir):
                raise UsageError(
                    f"run_dir = {shown(run_dir)}: job {job.id} is under way there with another "
                    f"configuration; `r2v stop {job.id}`, or choose another run_dir"
                )
        attempt = max((_attempt(job.id, first_id) for job in attempts), default=0) + 1
        new_id = first_id if attempt == 1 else f"{first_id}-{attempt}"
        request = {
            "entrypoint": ENTRYPOINT,
            "submission_id": new_id,
            "metadata": {"r2v_run_dir": shown(run_dir)},
            "entrypoint_num_cpus": driver.cpus or None,
            "entrypoint_memory": int(driver.memory_gib * 2**30) or None,
            "entrypoint_label_selector": dict(driver.labels) or None,
        }
        return Submitted(new_id, self._start(request, package), attempt)

    def listed(self) -> list[Job]:
        """Our jobs, the newest last."""
        with self._boundary():
            details = self._client.list_jobs()
        jobs = [_job(detail) for detail in details]
        run_jobs = [job for job in jobs if job.id.startswith(PREFIX)]
        return sorted(run_jobs, key=lambda job: job.started or 0)

    def job(self, job_id: str) -> Job:
        """The job of this id."""
        with self._boundary(job_id):
            return _job(self._client.get_job_info(job_id))

    def logs(self, job_id: str) -> str:
        """What the job has printed so far."""
        with self._boundary(job_id):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, say: Callable[[str], None]) -> Job:
        """Pass on what the job prints until it has ended."""
        self.job(job_id)
        with self._boundary(job_id):
            asyncio.run(self._follow(job_id, say))
        return self._ended(job_id, self._timeout_s)

    def stop(self, job_id: str, wait_s: float) -> Job:
        """Have the job stop, and wait for its end for at most `wait_s` seconds."""
        job = self.job(job_id)
        if not job.under_way:
            return job
        with self._boundary(job_id):
            self._client.stop_job(job_id)
        return self._ended(job_id, wait_s)

    def _start(self, request: dict[str, Any], package: Package) -> bool:
        """Upload and start; False where another client was faster. A cluster that has just started
        is asked again until it can run jobs.
        """
        deadline = time.monotonic() + self._timeout_s
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S)}
        with self._boundary(), tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "job.zip"
            archive.write_bytes(package.data)
            environment = {"working_dir": str(archive), "env_vars": variables}
            while True:
                try:
                    self._client.submit_job(runtime_env=environment, **request)
                    return True
                except RuntimeError as error:
                    if "already exists" in str(error):
                        return False
                    if "No available agent" not in str(error) or time.monotonic() > deadline:
                        raise
                time.sleep(_POLL_S)

    async def _follow(self, job_id: str, say: Callable[[str], None]) -> None:
        """A job may print nothing for hours: silence is a reason to ask whether it still runs."""
        lines = self._client.tail_job_logs(job_id)
        ahead = asyncio.ensure_future(anext(lines))
        while True:
            ready, _ = await asyncio.wait({ahead}, timeout=self._timeout_s)
            if ready:
                try:
                    say(ahead.result())
                except StopAsyncIteration:
                    return
                ahead = asyncio.ensure_future(anext(lines))
            elif not self.job(job_id).under_way:
                ahead.cancel()
                return

    def _ended(self, job_id: str, wait_s: float) -> Job:
        deadline = time.monotonic() + wait_s
        while (job := self.job(job_id)).under_way:
            if time.monotonic() > deadline:
                raise RuntimeFailure(
                    f"{job_id}: still {job.status} after {wait_s:g} s; look at `r2v logs {job_id}`"
                )
            time.sleep(_POLL_S)
        return job

    @contextlib.contextmanager
    def _boundary(self, job_id: str = "") -> Iterator[None]:
        """Whatever goes wrong between here and the cluster is one line."""
        import requests
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError

        address = f"--address = {self._url}"
        try:
            yield
        except BrokenPipeError:
            raise  # of what the user reads with
        except (requests.RequestException, ConnectionError, ClientError) as error:
            raise RuntimeFailure(
                f"{address}: no answer ({type(error).__name__}); start the cluster, or name the "
                f"address of its dashboard (port 8265)"
            ) from None
        except AuthenticationError as error:
            raise RuntimeFailure(f"{address}: {_one_line(error)}") from None
        except RuntimeError as error:
            if job_id and "status code 404" in str(error):
                raise UsageError(
                    f"{job_id}: no such job at {self._url}; `r2v jobs` lists them"
                ) from None
            raise RuntimeFailure(f"{address}: {_one_line(error)}") from None


def _client(url: str, timeout_s: float) -> Any:
    """Ray's client; its own requests wait for ever."""
    from ray.job_submission import JobSubmissionClient

    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=timeout_s, **options)

    return Client(url)


def _attempt(job_id: str, first_id: str) -> int:
    """Which attempt of the run the job is; 0 for a job of another run."""
    match = re.fullmatch(rf"{re.escape(first_id)}(?:-([0-9]+))?", job_id)
    return int(match[1] or 1) if match else 0


def _job(detail: Any) -> Job:
    status = detail.status
    return Job(
        id=detail.submission_id or detail.job_id,
        status=str(getattr(status, "value", status)),
        run_dir=(detail.metadata or {}).get("r2v_run_dir", ""),
        started=detail.start_time and detail.start_time / 1000,
        ended=detail.end_time and detail.end_time / 1000,
        message=_one_line(detail.message or ""),
    )


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:400]
