"""Who may ask. Invariant: keys are compared in constant time, before a body is read, and no key is
kept in anything that is written; a caller is known by a short hash of its key."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from r2v_dist.errors import UsageError
from r2v_dist.serving.begun import Caller
from r2v_dist.serving.controls import Controls
from r2v_dist.serving.errors import ApiError

_LOCAL_NAMES = ("localhost", "ip6-localhost")


@dataclass(frozen=True)
class Access:
    """The keys that may ask (`keys`), and those that may force and raise as well (`admins`).
    `loopback`: bound to this machine alone, where a page of another origin may not ask."""

    keys: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()
    loopback: bool = True

    @property
    def guarded(self) -> bool:
        """Whether a key is needed."""
        return bool(self.keys or self.admins)

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Who asks. Raises ApiError 401 and 403."""
        if self.loopback:
            _require_local(headers)
        if not self.guarded:
            return Caller()
        authorization = headers.get("authorization", "")
        scheme, _, key = authorization.partition(" ")
        credential = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        admin = _among(credential, self.admins)
        if not (_among(credential, self.keys) or admin):
            raise ApiError(
                401, "no valid API key; send authorization: Bearer KEY", "authentication_error",
                code="invalid_api_key", headers={"www-authenticate": "Bearer"},
            )  # fmt: skip
        return Caller(hashlib.blake2b(credential.encode(), digest_size=6).hexdigest(), admin)


def require_right(controls: Controls, caller: Caller, most: int | None) -> None:
    """Raises ApiError 403 where a caller asks for what an admin may; `most` is the budget that the
    configuration gives a conversation."""
    if caller.admin:
        return
    calls = controls.max_teacher_calls
    if controls.route == "teacher":
        raise _forbidden("force the teacher", "r2v.route")
    if controls.threshold is not None:
        raise _forbidden("set a threshold", "r2v.threshold")
    if most is not None and calls is not None and calls > most:
        raise _forbidden(f"raise the budget above {most}", "r2v.max_teacher_calls")


def require_safe(host: str, access: Access) -> None:
    """Raises UsageError where anybody on the network could ask."""
    if not is_loopback(host) and not access.guarded:
        raise UsageError(
            f"--host {host}: anybody who reaches this machine could ask the teacher at your cost; "
            f"set R2V_GATEWAY_KEYS (serve.keys_env), or bind to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    if host in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=64)
def _local(host: str, origin: str | None) -> bool:
    """Whether a request names this machine, and comes from no page of another."""
    try:
        hostname = urlsplit(f"//{host}").hostname or ""
        page = "localhost" if origin is None else urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return is_loopback(hostname) and is_loopback(page)


def _among(credential: str, keys: tuple[str, ...]) -> bool:
    equal = False
    for key in keys:
        equal |= hmac.compare_digest(credential.encode(), key.encode())
    return equal


def _require_local(headers: Mapping[str, str]) -> None:
    """A page that a browser loaded elsewhere may name this machine as host or origin."""
    if not _local(headers.get("host", "localhost"), headers.get("origin")):
        raise ApiError(403, "this gateway answers its own machine only", "permission_error")


def _forbidden(what: str, param: str) -> ApiError:
    return ApiError(403, f"this key may not {what}", "permission_error", param, "forbidden")
