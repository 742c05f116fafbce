"""The endpoints that look: feedback, log, metrics, status and page. Beyond loopback all of them
need a key, as answers do.
"""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from r2v_dist.serving.access import Access
from r2v_dist.serving.errors import ApiError, invalid
from r2v_dist.serving.log import RequestLog, read_log
from r2v_dist.serving.log_episodes import judged_episodes
from r2v_dist.serving.request_body import read_body
from r2v_dist.serving.watch import Watch
from r2v_dist.serving.wire import decode_object
from r2v_dist.storage.step_table import to_table

_PAGE = Path(__file__).with_name("page.html")
_MOST_FEEDBACK_MIB = 1 / 16
_COMMENT = 2000


class Observing:
    """`log` is None where nothing is logged; `folder` is where the log lies."""

    def __init__(
        self, watch: Watch, access: Access, log: RequestLog | None, folder: Path | None
    ) -> None:
        self._watch = watch
        self._access = access
        self._log = log
        self._folder = folder

    @property
    def routes(self) -> list[Route]:
        """What Starlette is told."""
        return [
            Route("/v1/feedback", self._feedback, methods=["POST"]),
            Route("/v1/log", self._rollouts),
            Route("/v1/status", self._status),
            Route("/metrics", self._exposition),
            Route("/", self._page),
        ]

    async def _feedback(self, request: Request) -> Response:
        """Say how a conversation ended, by the id of its last answer."""
        caller = self._access.caller(dict(request.headers))
        raw = await read_body(request.receive, dict(request.headers), _MOST_FEEDBACK_MIB)
        body = decode_object(raw)
        success, comment = _judgement(body)
        answer_id = str(body["id"])
        answer = self._watch.judged(answer_id, caller.name, success)
        if answer is None:
            raise ApiError(404, "no answer of that id is known", param="id", code="not_found")
        if self._log is not None:
            self._log.append(
                {
                    "time": time.time(),
                    "kind": "feedback",
                    "id": answer_id,
                    "caller": caller.name,
                    "state": answer.state,
                    "conversation": answer.conversation,
                    "success": success,
                    "comment": comment,
                }
            )
        return _json({"object": "r2v.feedback", "id": answer_id, "success": success})

    async def _rollouts(self, request: Request) -> Response:
        """The judged conversations as rollouts, an Arrow stream; `?form=rows` gives the log's own
        rows. A key sees what was said to it, an admin's everything."""
        caller = self._access.caller(dict(request.headers))
        if self._log is None or self._folder is None:
            raise ApiError(404, "this gateway logs nothing (serve.log)", code="not_found")
        forms = request.query_params.getlist("form")
        if forms not in ([], ["rollouts"], ["rows"]):
            raise invalid("form must be rollouts or rows", "form")
        rows = forms == ["rows"]
        self._log.flush()
        table = await asyncio.to_thread(
            partial(_table, self._folder, rows, None if caller.admin else caller.name)
        )
        return Response(table, media_type="application/vnd.apache.arrow.stream")

    async def _status(self, request: Request) -> Response:
        self._access.caller(dict(request.headers))
        return _json(self._watch.status())

    async def _exposition(self, request: Request) -> Response:
        self._access.caller(dict(request.headers))
        return Response(self._watch.exposition(), media_type="text/plain; version=0.0.4")

    async def _page(self, request: Request) -> Response:
        """The page itself holds nothing; what it shows needs a key where there are keys."""
        page = _PAGE.read_text(encoding="utf-8")
        return Response(page, headers=_confined(page), media_type="text/html; charset=utf-8")


def _confined(page: str) -> dict[str, str]:
    """Headers under which a browser runs the page's own script and no other, and asks nobody but
    the gateway."""
    texts_by_tag = {
        tag: re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL) for tag in ("script", "style")
    }
    rules = [
        *("default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'"),
        *("form-action 'none'", "frame-ancestors 'none'"),
        *(f"{tag}-src {' '.join(map(_fingerprint, texts))}" for tag, texts in texts_by_tag.items()),
    ]
    return {
        "content-security-policy": "; ".join(rules),
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }


def _fingerprint(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _table(folder: Path, rows: bool, caller: str | None) -> bytes:
    table = read_log(folder)
    if caller is not None:
        table = table.filter(pc.equal(table["caller"], caller))
    if not rows:
        table = to_table(judged_episodes(table))
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def _judgement(body: Mapping[str, Any]) -> tuple[bool, str]:
    unknown_keys = sorted(set(body) - {"id", "success", "comment"})
    if unknown_keys:
        raise invalid(
            f"unknown key {unknown_keys[0]}; give id, success and comment", unknown_keys[0]
        )
    if not isinstance(body.get("id"), str):
        raise invalid("id must be the id of an answer", "id")
    success = body.get("success")
    if not isinstance(success, bool):
        raise invalid("success must be true or false", "success")
    comment = body.get("comment") or ""
    if not isinstance(comment, str) or len(comment) > _COMMENT:
        raise invalid(f"comment must be a text of at most {_COMMENT} letters", "comment")
    return success, comment


def _json(body: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
