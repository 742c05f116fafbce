"""A Docker-compatible engine: its client, and the images of tasks."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from typing import Any

from envs.terminal_bench.machine import File
from r2v_dist.errors import RuntimeFailure, UsageError

ANSWER_S = 60
"""Seconds after which an engine that says nothing has failed."""
_BUILD_S = 1800


def client(address: str) -> Any:
    """The engine's client; an empty address means DOCKER_HOST or the usual socket. Raises
    UsageError where there is no engine.
    """
    try:
        import docker
    except ImportError:
        raise UsageError(
            "env.terminal.backend = docker: the package docker is not installed; "
            "pip install 'r2v-dist[docker]'"
        ) from None
    try:
        settings = {"base_url": address} if address else {}
        api = docker.APIClient(**settings, version="auto", timeout=ANSWER_S)
        api.ping()
    # A boundary: the library raises what its transports raise.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"env.terminal.backend = docker: no engine answers at {address or 'DOCKER_HOST'} "
            f"({reason}); start one, or set env.terminal.backend: sandbox"
        ) from None
    return api


def image_of(api: Any, image: str, context: Mapping[str, File]) -> str:
    """The name of an image, pulled if it is not there; without one, of what a Dockerfile and the
    files beside it make, built if it is not there.
    """
    if image:
        if not api.images(name=image):
            for line in api.pull(image, stream=True, decode=True):
                _demand(line)
        return image
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path, file in sorted(context.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(file.content), file.mode
            archive.addfile(entry, io.BytesIO(file.content))
    name = f"r2v-terminal:{hashlib.sha256(raw.getvalue()).hexdigest()[:16]}"
    if not api.images(name=name):
        raw.seek(0)
        for line in api.build(
            fileobj=raw, custom_context=True, tag=name, rm=True, decode=True, timeout=_BUILD_S
        ):
            _demand(line)
    return name


def _demand(line: Mapping[str, Any]) -> None:
    """Raises RuntimeFailure where a line of the engine's report is an error."""
    if "error" in line:
        raise RuntimeFailure(" ".join(str(line["error"]).split())[:300])
