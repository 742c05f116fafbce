"""The message to a waiting interpreter, and its report; `supervisor.py` is the other side."""

import marshal
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

Rlimits = Sequence[tuple[int, tuple[int, int]]]


def encode(source: str, files: Mapping[str, bytes], rlimits: Rlimits, report_fd: int) -> bytes:
    """One message. Raises ValueError for a file outside the working directory."""
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise ValueError(f"{name!r} is no path inside the working directory")
    contents = {name: bytes(content) for name, content in files.items()}
    body = marshal.dumps((source, contents, list(rlimits), report_fd))
    return len(body).to_bytes(8, "little") + body


def decode_report(report: bytes) -> tuple[int, float] | None:
    """Exit code (minus the signal's number) and processor seconds of the program; None when its
    supervisor could not report.
    """
    if len(report) < 16:
        return None
    code = int.from_bytes(report[:8], "little", signed=True)
    cpu_ms = int.from_bytes(report[8:16], "little", signed=True)
    return code, cpu_ms / 1e3
