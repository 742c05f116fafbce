"""Objects of a store that has no file system: S3, Google Cloud Storage, Azure.

Invariant: an object shows whole or not at all, `create` never overwrites one, and no request
outlasts its deadline. Credentials, region and endpoint come from the environment; no message holds
them.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from r2v_dist.errors import StoreFailure

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

DEADLINE_VARIABLE = "R2V_STORAGE_DEADLINE_S"
"""Carries `cluster.storage_deadline_s` to the processes of a run."""
_DEADLINE_S = 120.0
"""Of who looks at a run without its configuration."""
_NO_CREDENTIALS = ("169.254.169.254", "metadata.google.internal")
"""Where a client asks a cloud's machine for credentials when the environment has none."""
_AZURE = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY")
_VARIABLES = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"),
    "gs": ("GOOGLE_SERVICE_ACCOUNT_KEY",),
    "abfs": _AZURE,
    "abfss": _AZURE,
}
SCHEMES = tuple(_VARIABLES)
_BLOCK = 32 << 20
_REFUSED = "; check the credentials in the environment, and what they may do"
_FIXES = {
    "NoSuchBucket": "; make the bucket, or correct the address",
    "AccessDenied": _REFUSED,
    "InvalidAccessKeyId": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
}


@dataclass(frozen=True)
class Meta:
    """What a store says of an object. `tag` differs between contents."""

    name: str
    size: int
    tag: str
    changed: datetime


def variables_of(address: str) -> tuple[str, ...]:
    """The environment variables that most often say where a store is and who asks it."""
    return _VARIABLES[urlsplit(address).scheme]


_NAMES_SECRET = re.compile(r"(?i)(key|token|secret|passw|sig|auth|credential)[^&=]*=")


def address_problem(address: str) -> str:
    """Why objects cannot be kept at an address; empty where they can."""
    url = urlsplit(address)
    if not address.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        return (
            f"no storage that can create an object without overwriting one; use "
            f"{', '.join(f'{scheme}://' for scheme in SCHEMES)} or a path on storage that every "
            f"node sees"
        )
    if not url.netloc:
        return f"no bucket; write {url.scheme}://bucket/folder"
    if "?" in address or "#" in address:
        return (
            "an address without settings is needed; endpoint, region and credentials come from "
            "environment variables such as AWS_ENDPOINT_URL and AWS_REGION"
        )
    if not url.path.strip("/"):
        return "a whole bucket; name a folder in it"
    return ""


def holds_secret(address: str) -> bool:
    """Whether an address names who asks: a user, a password, or a key among its settings, which
    must not be repeated anywhere.
    """
    place = re.split(r"[/?#]", address.partition("://")[2], maxsplit=1)[0]
    return "@" in place or bool(_NAMES_SECRET.search(address.partition("?")[2]))


def set_deadline(seconds: float) -> None:
    """Bound the requests of this process, and of those that inherit its environment."""
    os.environ[DEADLINE_VARIABLE] = f"{seconds:g}"


def deadline_s() -> float:
    """Longest time of a request with all its tries, in seconds."""
    return float(os.environ.get(DEADLINE_VARIABLE, _DEADLINE_S))


def variables() -> dict[str, str]:
    """What a process on another node inherits; nothing where no deadline was set here."""
    deadline = os.environ.get(DEADLINE_VARIABLE)
    return {} if deadline is None else {DEADLINE_VARIABLE: deadline}


class ObjectStore:
    """The objects below one address. Every method raises StoreFailure where the store refuses or
    does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address

    def put(self, name: str, content: Path | bytes) -> str:
        """Write an object, over an earlier one where there is one; its tag."""
        import obstore

        with self._asking(name):
            return _tag(obstore.put(self._client, name, content))

    def create(self, name: str, content: Path | bytes) -> str:
        """Write an object that does not exist; its tag. Raises FileExistsError where it exists.

        A first try whose answer was lost may have made it: compare the content. The second try has
        a deadline of its own.
        """
        import obstore

        def attempt() -> str:
            options: Any = {"mode": "create", "use_multipart": False}
            return _tag(obstore.put(self._client, name, content, **options))

        with self._asking(name):
            try:
                return attempt()
            except obstore.exceptions.GenericError:
                return attempt()

    def require_creation(self) -> None:
        """Raises StoreFailure where the store overwrites what must not be overwritten."""
        name = f"lease/.creation-{secrets.token_hex(6)}"
        self.put(name, b"")
        with contextlib.suppress(FileExistsError):
            self.create(name, b"")
            raise StoreFailure(
                f"{self.address}: the storage overwrites what must not be overwritten (it ignores "
                f"If-None-Match); use another one, or a path on storage that every node sees"
            )
        self.delete([name])

    def head(self, name: str) -> Meta | None:
        """What the store says of an object; None where there is none."""
        import obstore

        with self._asking(name):
            try:
                return _meta(obstore.head(self._client, name))
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None where there is none."""
        import obstore

        with self._asking(name):
            try:
                return bytes(obstore.get(self._client, name).bytes())
            except FileNotFoundError:
                return None

    def download(self, meta: Meta, target: Path) -> None:
        """Write an object's bytes to a file, block by block. Makes the folders above it."""
        import obstore

        target.parent.mkdir(parents=True, exist_ok=True)
        with self._asking(meta.name), target.open("wb") as handle:
            for start in range(0, meta.size, _BLOCK):
                length = min(_BLOCK, meta.size - start)
                block = obstore.get_range(self._client, meta.name, start=start, length=length)
                handle.write(block)

    def list(self, prefix: str) -> list[Meta]:
        """All objects whose names begin with the folder `prefix`."""
        import obstore

        with self._asking(prefix):
            batches = obstore.list(self._client, prefix or None)
            return [_meta(row) for batch in batches for row in batch]

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; one that is gone already is no failure."""
        import obstore

        if not names:
            return
        with self._asking(names[0]):
            try:
                obstore.delete(self._client, list(names))
            except FileNotFoundError:  # some stores say so, and leave the others where they are
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        obstore.delete(self._client, name)

    def copy(self, name: str, target: str) -> None:
        """Copy an object inside the store."""
        import obstore

        with self._asking(name):
            obstore.copy(self._client, name, target)

    @property
    def _client(self) -> "Client":
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3", "")
        return _client(self.address, deadline_s(), endpoint)

    @contextlib.contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """A boundary: what the client raises is one line that names the object."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        address = f"{self.address}/{name}"
        try:
            yield
        except AlreadyExistsError:
            raise FileExistsError(f"{address} exists") from None
        except (BaseError, FileNotFoundError, PermissionError) as error:
            raise StoreFailure(f"{address}: {_said(error)}") from None


@cache
def _client(address: str, limit_s: float, endpoint: str) -> "Client":
    from obstore.store import from_url

    half = timedelta(seconds=limit_s / 2)  # one try may begin when the time for others is over
    return from_url(
        address,
        client_options={
            "timeout": half,
            "connect_timeout": min(half, timedelta(seconds=5)),
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={
            "max_retries": 1000,
            "retry_timeout": half,
            "backoff": {"max_backoff": timedelta(seconds=5)},
        },
    )


def _tag(answer: Any) -> str:
    return str(answer["e_tag"])


def _meta(row: Any) -> Meta:
    return Meta(row["path"], row["size"], str(row["e_tag"]), row["last_modified"])


def _said(error: Exception) -> str:
    """A client's error in one line: the cause, without the request and its address."""
    text = str(error).partition("Debug source")[0]
    if any(place in text for place in _NO_CREDENTIALS):
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what the store "
            "takes, on every node"
        )
    if "error sending request" in text or "retry_timeout" in text:
        return f"the storage does not answer within {deadline_s():g} s (cluster.storage_deadline_s)"
    codes = re.findall(r"<Code>(\w+)</Code>", text)
    if codes:
        return f"the storage says {codes[0]}{_FIXES.get(codes[0], '')}"
    return " ".join(re.sub(r"<[^>]*>|https?://\S+", " ", text).split())[:300]
