"""Submitting twice, after an end, and against other clients: with Ray's own client, against a
server that speaks what Ray's speaks.
"""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs import Driver, Jobs
from cluster.package import Package
from r2v_dist.cli.main import main
from r2v_dist.errors import RuntimeFailure, UsageError

RUN_DIR = Path("/shared/a")
PACKAGE = Package(b"PK", ())


class JobServer(ThreadingHTTPServer):
    """Jobs that only the test ends."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.uploaded: list[bytes] = []
        self.hidden = False
        """Whether the list of jobs is empty, as it was for a client that asked a moment ago."""
        self.stops = True
        self.refusals = 0
        """How often the cluster still says that it is starting."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def end(self, job_id: str, status: str) -> None:
        self.jobs[job_id] |= {"status": status, "end_time": 2000, "message": "as the\ntest says"}


class Handler(BaseHTTPRequestHandler):
    server: JobServer

    def do_GET(self) -> None:
        path = self.path.split("/")[2:]
        jobs = self.server.jobs
        if path == ["version"]:
            self._answer({"ray_version": "2.60.0"})
        elif path[0] == "packages":
            self._answer({}, 200 if self.server.uploaded else 404)
        elif path == ["jobs", ""]:
            self._answer([] if self.server.hidden else list(jobs.values()))
        elif path[1] not in jobs:
            self._answer({}, 404)
        else:
            self._answer({"logs": "line\n"} if path[2:] == ["logs"] else jobs[path[1]])

    def do_PUT(self) -> None:
        self.server.uploaded.append(self._body())
        self._answer({})

    def do_POST(self) -> None:
        path = self.path.split("/")[2:]
        body = json.loads(self._body() or b"{}")
        if path[2:] == ["stop"]:
            if self.server.stops:
                self.server.end(path[1], "STOPPED")
            self._answer({"stopped": True})
        elif self.server.refusals > 0:
            self.server.refusals -= 1
            self._answer({"error": "No available agent to submit job, please try again"}, 500)
        elif body["submission_id"] in self.server.jobs:
            self._answer({"error": "Job already exists"}, 500)
        else:
            about = {"type": "SUBMISSION", "status": "RUNNING", "start_time": 1000}
            self.server.jobs[body["submission_id"]] = body | about
            self._answer({"submission_id": body["submission_id"], "job_id": "1"})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[JobServer]:
    with JobServer() as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


def submit(server: JobServer, job_id: str = "r2v-a-1", run_dir: Path = RUN_DIR) -> tuple[str, bool]:
    submitted = Jobs(server.address, 30).submit(job_id, run_dir, PACKAGE, Driver())
    return submitted.id, submitted.started


def test_a_run_has_one_job_at_a_time_and_the_next_after_its_end(server: JobServer) -> None:
    assert submit(server) == ("r2v-a-1", True)
    assert submit(server) == ("r2v-a-1", False)
    for attempt, ended in ((2, "STOPPED"), (3, "FAILED"), (4, "SUCCEEDED")):
        server.end(list(server.jobs)[-1], ended)
        assert submit(server) == (f"r2v-a-1-{attempt}", True)
        assert submit(server) == (f"r2v-a-1-{attempt}", False)
    assert server.uploaded == [PACKAGE.data]  # once: its name is the hash of what it holds


def test_an_id_that_was_deleted_is_not_taken_again(server: JobServer) -> None:
    for _ in range(2):
        job_id, _ = submit(server)
        server.end(job_id, "FAILED")
    del server.jobs["r2v-a-1"]
    assert submit(server) == ("r2v-a-1-3", True)


def test_of_two_clients_at_the_same_time_one_starts_the_job(server: JobServer) -> None:
    submit(server)
    server.hidden = True
    assert submit(server) == ("r2v-a-1", False)


def test_a_cluster_that_is_starting_is_asked_again_until_the_deadline(server: JobServer) -> None:
    server.refusals = 1
    assert submit(server) == ("r2v-a-1", True)
    server.refusals = 1000
    server.end("r2v-a-1", "FAILED")
    with pytest.raises(RuntimeFailure, match="No available agent to submit job") as error:
        Jobs(server.address, 0.6).submit("r2v-a-1", RUN_DIR, PACKAGE, Driver())
    assert "\n" not in str(error.value)
    assert server.refusals < 999


def test_another_configuration_waits_for_the_run_directory(server: JobServer) -> None:
    submit(server)
    with pytest.raises(
        UsageError, match=r"^run_dir = /shared/a: job r2v-a-1 is under way"
    ) as error:
        submit(server, "r2v-b-2")
    assert "`r2v stop r2v-a-1`" in str(error.value)
    assert submit(server, "r2v-b-2", Path("/shared/b")) == ("r2v-b-2", True)
    server.end("r2v-a-1", "STOPPED")
    assert submit(server, "r2v-c-3") == ("r2v-c-3", True)


def test_what_the_driver_needs_is_asked_for(server: JobServer) -> None:
    driver = Driver(2, 1.5, {"zone": "a"})
    Jobs(server.address, 30).submit("r2v-a-1", RUN_DIR, PACKAGE, driver)
    job = server.jobs["r2v-a-1"]
    assert job["entrypoint_num_cpus"] == 2
    assert job["entrypoint_memory"] == 1.5 * 2**30
    assert job["entrypoint_label_selector"] == {"zone": "a"}
    submit(server, "r2v-b-2", Path("/shared/b"))
    assert not [key for key in server.jobs["r2v-b-2"] if key.startswith("entrypoint_")]


def test_a_job_that_does_not_end_is_named_after_the_deadline(server: JobServer) -> None:
    submit(server)
    server.stops = False
    with pytest.raises(RuntimeFailure, match=r"^r2v-a-1: still RUNNING after 0 s; .*r2v logs r2v-"):
        Jobs(server.address, 30).stop("r2v-a-1", 0)
    server.stops = True
    assert Jobs(server.address, 30).stop("r2v-a-1", 0).status == "STOPPED"
    server.stops = False  # nor is a job that has ended asked to
    assert Jobs(server.address, 30).stop("r2v-a-1", 0).status == "STOPPED"


def test_the_commands_show_jobs_and_logs_and_name_unknown_ids(
    server: JobServer, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--address", server.address]
    submit(server)
    server.jobs["raysubmit_x"] = {**server.jobs["r2v-a-1"], "submission_id": "raysubmit_x"}
    server.end("r2v-a-1", "FAILED")
    main(["jobs", "--json", *there])
    [row] = json.loads(capsys.readouterr().out)
    assert row == {
        "id": "r2v-a-1",
        "status": "FAILED",
        "run_dir": "/shared/a",
        "started": 1.0,
        "ended": 2.0,
        "message": "as the test says",
    }
    main(["jobs", *there])
    assert "r2v-a-1  FAILED" in capsys.readouterr().out
    main(["logs", "r2v-a-1", *there])
    assert capsys.readouterr().out == "line\n"
    main(["stop", "r2v-a-1", *there])
    assert capsys.readouterr().out == "r2v-a-1 FAILED\n"
    for command in (["logs"], ["logs", "--follow"], ["stop"]):
        with pytest.raises(SystemExit, match=r"^2$"):
            main([command[0], "r2v-no", *command[1:], *there])
        said = f"r2v: r2v-no: no such job at {server.address}; `r2v jobs` lists them\n"
        assert capsys.readouterr().err == said


def test_a_server_that_takes_a_request_and_never_answers_is_given_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SystemExit, match=r"^1$"):
            main(["jobs", "--timeout=0.2", "--address", address])
    assert "no answer (ReadTimeout)" in capsys.readouterr().err
