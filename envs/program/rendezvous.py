"""Where a program meets the loop: an OpenAI-compatible endpoint on loopback that holds a request
until somebody answers it.

Invariant: at most one request is open. Another one at the same time is refused with 409 and the
episode learns of it; one with an old token belongs to a program that is over, and gets 401.
"""

import json
import secrets
import socketserver
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from r2v_dist.errors import RuntimeFailure
from r2v_dist.language_model import Answer, Candidate
from r2v_dist.messages import read_action
from r2v_dist.serving.answers import completion_of
from r2v_dist.serving.errors import ApiError, invalid
from r2v_dist.serving.sse import DONE, event
from r2v_dist.serving.wire import ChatRequest, read_request, too_large

_MOST_BYTES = 64 * 2**20
_WAITING = 1024
"""Connections that may wait to be taken."""
_MODEL = "r2v"


@dataclass
class Asked:
    """A request that waits for its answer."""

    chat: ChatRequest
    answered: threading.Event
    action: str | None = None
    """None where the episode ended without an answer."""


class Rendezvous:
    """The endpoint, at a port of loopback or at a socket in the file system. `token` is the
    program's key.
    """

    def __init__(self, at: Path | None = None) -> None:
        self._changed = threading.Condition()
        self._open: Asked | None = None
        self._problem = ""
        self.token = ""
        self.port = 0
        """Where the endpoint is on loopback, if it is there."""
        if at is None:
            self._server: _Server | _SocketServer = _Server(self)
            self.port = self._server.server_port
        else:
            self._server = _SocketServer(self, at)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def begin(self) -> str:
        """A new episode: earlier programs are turned away. The key of the new one."""
        self._leave()
        with self._changed:
            self.token = secrets.token_urlsafe(16)
            self._problem = ""
        return self.token

    def wait(self, timeout_s: float) -> Asked | None:
        """The open request; None where there is none in time. Raises RuntimeError where the program
        asked something that nobody can answer."""
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._problem, timeout_s)
            if self._problem:
                raise RuntimeError(self._problem)
            return self._open

    def answer(self, action: str) -> None:
        """Answer the open request."""
        with self._changed:
            request, self._open = self._open, None
        if request is None:
            raise RuntimeFailure("no request of the program is open")
        request.action = action
        request.answered.set()

    def close(self) -> None:
        """End the endpoint."""
        self._leave()
        self._server.shutdown()
        self._server.server_close()

    def _leave(self) -> None:
        """Whoever still waits gets no answer any more."""
        with self._changed:
            request, self._open = self._open, None
            self.token = ""
        if request is not None:
            request.answered.set()

    def admit(self, key: str) -> None:
        """Raises ApiError for whoever is not the program of this episode."""
        if not self.token or not secrets.compare_digest(key.encode(), self.token.encode()):
            raise ApiError(401, "this episode is over", "authentication_error")

    def ask(self, raw: bytes, key: str) -> Asked:
        """Open a request of the program. Raises ApiError."""
        with self._changed:
            self.admit(key)
            if self._open is not None:
                self._problem = "the program asked twice at a time; one conversation is played"
                self._changed.notify_all()
                raise ApiError(409, self._problem, code="one_at_a_time")
            try:
                chat = read_request(raw, {})
                if chat.n != 1:
                    raise invalid("n = 1 is all that an episode has", "n")
            except ApiError as error:
                self._problem = f"the program asked what cannot be answered: {error}"
                self._changed.notify_all()
                raise
            self._open = Asked(chat, threading.Event())
            self._changed.notify_all()
            return self._open


class _Forgiving:
    rendezvous: Rendezvous

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A program that is ended hangs up in mid-sentence; everything else is told as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[misc]


class _Server(_Forgiving, ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _WAITING

    def __init__(self, rendezvous: Rendezvous) -> None:
        super().__init__(("127.0.0.1", 0), _LoopbackHandler)
        self.rendezvous = rendezvous


class _SocketServer(_Forgiving, socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = _WAITING

    def __init__(self, rendezvous: Rendezvous, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.rendezvous = rendezvous


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server | _SocketServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what a program asks is in the rollouts."""

    def do_GET(self) -> None:
        """The list of models."""
        model = {"id": _MODEL, "object": "model", "created": 0, "owned_by": "r2v"}
        self._send(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        """A request for an answer, which comes when the loop gives it."""
        try:
            if not self.path.endswith("/chat/completions"):
                raise ApiError(404, f"no such endpoint: {self.path[:100]}", code="not_found")
            key = self.headers.get("authorization", "").removeprefix("Bearer ").strip()
            self.server.rendezvous.admit(key)
            length = self.headers.get("content-length") or "0"
            if not (length.isascii() and length.isdigit()) or int(length) > _MOST_BYTES:
                raise too_large(_MOST_BYTES / 2**20)
            request = self.server.rendezvous.ask(_as_ours(self.rfile.read(int(length))), key)
        except ApiError as error:
            self.close_connection = True  # its body may not have been read
            self._send(error.status, error.body)
            return
        request.answered.wait()
        if request.action is None:
            self._send(503, ApiError(503, "this episode is over").body)
        else:
            self._answer(request.chat, request.action)

    def _answer(self, chat: ChatRequest, action: str) -> None:
        content, calls = read_action(action)
        candidate = Candidate(action, calls=calls, content=content)
        answer = Answer((candidate,), _MODEL, generated=len(action.split()))
        completion = completion_of(answer, [0], _MODEL, chat, None)
        if not chat.stream:
            self._send(200, completion.body({}))
            return
        chunks = completion.chunks({}, chat.include_usage)
        body = b"".join(event(json.dumps(chunk).encode()) for chunk in chunks) + event(DONE)
        self._send_bytes(200, body, "text/event-stream")

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(body).encode(), "application/json")

    def _send_bytes(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _LoopbackHandler(_Handler):
    disable_nagle_algorithm = True  # headers and body leave one after the other


def _as_ours(raw: bytes) -> bytes:
    """The request under a model name of the gateway: a program may name any."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    return json.dumps(body | {"model": _MODEL}).encode() if isinstance(body, dict) else raw
