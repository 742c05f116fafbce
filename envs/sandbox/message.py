"""What is handed to a waiting interpreter; `inside.py` reads it."""

import marshal
from collections.abc import Mapping
from pathlib import PurePosixPath

from envs.sandbox.limits import Limits


def encode(source: str, files: Mapping[str, bytes], limits: Limits, private_user: bool) -> bytes:
    """Source, files and limits as one message. Raises ValueError for a file outside the working directory."""
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise ValueError(f"{name!r} is no path inside the working directory")
    body = marshal.dumps((source, {name: bytes(content) for name, content in files.items()}, limits.rlimits(private_user)))
    return len(body).to_bytes(8, "little") + body
