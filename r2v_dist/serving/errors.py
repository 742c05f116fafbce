"""What a caller is told when there is no answer: always an OpenAI error object."""

from collections.abc import Mapping
from typing import Any

INVALID = "invalid_request_error"
UPSTREAM = "upstream_error"


class ApiError(Exception):
    """A status and an OpenAI error object. `param` names the key that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that nobody can answer."""
    return ApiError(400, message, INVALID, param, code)


def busy(message: str, code: str, retry_after_s: float | None = None) -> ApiError:
    """Nobody can answer now."""
    headers = {} if retry_after_s is None else {"retry-after": f"{max(1.0, retry_after_s):.0f}"}
    return ApiError(503, message, UPSTREAM, None, code, headers)
