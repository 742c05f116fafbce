"""The body of a request, with a limit that holds before it is read."""

from collections.abc import Mapping

from starlette.types import Receive

from r2v_dist.serving.errors import ApiError
from r2v_dist.serving.wire import too_large


async def read_body(receive: Receive, headers: Mapping[str, str], limit_mib: float) -> bytes:
    """All of the body. Raises ApiError 413 and 415, and 400 where the caller went away."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _unsupported(f"content-type must be application/json, not {kind[:60]!r}")
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise _unsupported(f"content-encoding {encoding[:40]!r} is not understood")
    limit = int(limit_mib * 2**20)
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large(limit_mib)
    parts = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "the caller went away")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large(limit_mib)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _unsupported(message: str) -> ApiError:
    return ApiError(415, message, code="unsupported_media_type")
