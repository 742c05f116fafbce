"""A stand-in for a container engine: the part of Docker's API that r2v uses, over HTTP on a Unix
socket. Its containers are bubblewrap sandboxes, so that what a container is told to do is really
done. It is no Docker: it shows that requests and streams fit together, and nothing about an engine.
"""

import base64
import io
import json
import os
import re
import selectors
import socketserver
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from envs.terminal_bench.dockerfile import read_dockerfile
from envs.terminal_bench.judge import prepare
from envs.terminal_bench.machine import File
from envs.terminal_bench.sandbox.machine import SandboxMachine
from envs.terminal_bench.sandbox.options import Root
from envs.terminal_bench.sandbox.size import Size
from envs.terminal_bench.task import TerminalTask


class Handler(BaseHTTPRequestHandler):
    """One request; `server` has what there is."""

    protocol_version = "HTTP/1.1"
    server: "Engine"

    def _do(self) -> None:
        place = urlsplit(self.path)
        path = re.sub(r"^/v[\d.]+", "", place.path)
        self.server.asked.append(f"{self.command} {path}")
        body = self._body()
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        for pattern, answer in self.server.routes.items():
            method, _, wanted = pattern.partition(" ")
            if method == self.command and (match := re.fullmatch(wanted, path)):
                answer(self, match, query, body)
                return
        self.say({"message": f"no such route {path}"}, 404)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _do

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def say(self, value: Any, status: int = 200) -> None:
        """A JSON answer."""
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def hijack(self) -> None:
        """From here on the connection is a stream of bytes."""
        self.send_response(101, "UPGRADED")
        self.send_header("Content-Type", "application/vnd.docker.raw-stream")
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "tcp")
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True

    def address_string(self) -> str:
        return "engine"

    def log_message(self, *words: object) -> None:
        """Silent."""


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Images by name, containers and execs by id."""

    daemon_threads = True

    def __init__(self, place: Path) -> None:
        super().__init__(str(place), Handler)
        self.asked: list[str] = []
        self.images: dict[str, dict[str, File]] = {}
        self.containers: dict[str, SandboxMachine] = {}
        self.limits: list[dict[str, Any]] = []
        self.mains: dict[str, int] = {}
        """Processes that a container ends with, where it has an init before them."""
        self.execs: dict[str, dict[str, Any]] = {}
        self.routes = {
            "(GET|HEAD) /_ping": self._ping,
            "GET /_ping": self._ping,
            "HEAD /_ping": self._ping,
            "GET /version": lambda h, m, q, b: h.say(
                {"ApiVersion": "1.43", "MinAPIVersion": "1.24"}
            ),
            "GET /images/json": self._images,
            "POST /build": self._build,
            "POST /containers/create": self._create,
            r"POST /containers/(\w+)/start": lambda h, m, q, b: h.say({}, 200),
            r"PUT /containers/(\w+)/archive": self._archive,
            r"GET /containers/(\w+)/archive": self._taken,
            r"POST /containers/(\w+)/exec": self._exec,
            r"POST /exec/(\w+)/start": self._start,
            r"GET /exec/(\w+)/json": lambda h, m, q, b: h.say(
                {"ExitCode": self.execs[m[1]]["code"]}
            ),
            r"DELETE /containers/(\w+)": self._remove,
        }

    def _ping(self, handler: Handler, match: Any, query: dict[str, str], body: bytes) -> None:
        handler.say("OK")

    def _images(self, handler: Handler, match: Any, query: dict[str, str], body: bytes) -> None:
        wanted = json.loads(query.get("filters", "{}")).get("reference", [""])
        names = wanted if isinstance(wanted, list) else list(wanted)
        handler.say([{"Id": name} for name in names if name in self.images])

    def _build(self, handler: Handler, match: Any, query: dict[str, str], body: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            members = [one for one in archive if one.isfile()]
            files = {}
            for one in members:
                content: Any = archive.extractfile(one)
                files[one.name] = File(content.read(), one.mode)
        if b"FAIL" in files["Dockerfile"].content:
            handler.say({"error": "the build failed"})
            return
        self.images[query["t"]] = files
        handler.say({"stream": "Successfully built"})

    def _create(self, handler: Handler, match: Any, query: dict[str, str], body: bytes) -> None:
        wanted = json.loads(body)
        self.limits.append(wanted["HostConfig"])
        context = dict(self.images[wanted["Image"]])
        build = read_dockerfile(context.pop("Dockerfile").content.decode(), context)
        machine = SandboxMachine(Root(), Size())
        prepare(machine, TerminalTask("image", "", build, {}, ""))
        name = f"c{len(self.containers)}"
        self.containers[name] = machine
        if wanted["HostConfig"].get("Init"):
            program = [*wanted["Entrypoint"], *wanted["Cmd"]]
            reply = machine._bubble.ask("run", program, machine.variables, "/")
            self.mains[name] = reply.value
            os.close(reply.fds[0])
        handler.say({"Id": name, "Warnings": []}, 201)

    def _archive(self, handler: Handler, match: Any, query: dict[str, str], body: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(body)) as archive:
            files = {
                f"/{one.name}": File(archive.extractfile(one).read(), one.mode) for one in archive
            }  # type: ignore[union-attr]
        self.containers[match[1]].put(files)
        handler.say({})

    def _taken(self, handler: Handler, match: Any, query: dict[str, str], body: bytes) -> None:
        machine = self.containers[match[1]]
        program = ["/bin/tar", "-C", "/", "-cf", "-", query["path"].lstrip("/")]
        out = machine._bubble.ask("run", program, machine.variables, "/").fds[0]
        with open(out, "rb") as file:
            archive = file.read()
        stat = base64.b64encode(json.dumps({"name": query["path"]}).encode()).decode()
        handler.send_response(200)
        handler.send_header("X-Docker-Container-Path-Stat", stat)
        handler.send_header("Content-Length", str(len(archive)))
        handler.end_headers()
        handler.wfile.write(archive)

    def _exec(self, handler: Handler, match: Any, query: dict[str, str], body: bytes) -> None:
        name = f"e{len(self.execs)}"
        machine = self.containers[match[1]]
        machine._bubble.poll()
        if self.mains.get(match[1]) in machine._bubble.ended:
            handler.say({"message": f"container {match[1]} is not running"}, 409)
            return
        self.execs[name] = json.loads(body) | {"machine": machine, "code": None}
        handler.say({"Id": name}, 201)

    def _start(self, handler: Handler, match: Any, query: dict[str, str], body: bytes) -> None:
        wanted = self.execs[match[1]]
        machine: SandboxMachine = wanted["machine"]
        variables = dict(one.split("=", 1) for one in wanted.get("Env") or [])
        handler.hijack()
        if not wanted["Tty"]:
            program = ["/usr/bin/env", *wanted["Cmd"]]
            folder = wanted["WorkingDir"]
            reply = machine._bubble.ask("run", program, machine.variables | variables, folder)
            _frames(reply.fds[0], handler)
            wanted["code"] = _code(machine, reply.value)
            return
        reply = machine._bubble.ask(
            "shell", wanted["Cmd"], machine.variables | variables, wanted["WorkingDir"], 40, 160
        )
        terminal, unused = reply.fds
        os.close(unused)
        _relay(terminal, handler.connection)
        os.close(terminal)

    def _remove(self, handler: Handler, match: Any, query: dict[str, str], body: bytes) -> None:
        self.containers.pop(match[1]).close()
        handler.say({}, 200)


def _frames(out: int, handler: Handler) -> None:
    """A program's output as it comes, in frames."""
    with open(out, "rb", buffering=0) as file:
        while data := file.read(1 << 16):
            handler.wfile.write(b"\x01\x00\x00\x00" + len(data).to_bytes(4, "big") + data)


def _code(machine: SandboxMachine, process: int) -> int | None:
    """The exit code of a program whose output has ended; it may run on."""
    for _ in range(200):
        machine._bubble.poll()
        if process in machine._bubble.ended:
            return machine._bubble.ended[process]
        time.sleep(0.01)
    return None


def _relay(terminal: int, connection: Any) -> None:
    """Until either side ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(terminal, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(60):
                try:
                    data = os.read(key.fd, 1 << 16)
                except OSError:
                    return
                if not data:
                    return
                if key.fd == terminal:
                    connection.sendall(data)
                else:
                    os.write(terminal, data)


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """A running engine; its address is `unix://folder/engine.sock`."""
    server = Engine(folder / "engine.sock")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        for machine in server.containers.values():
            machine.close()
