"""What is handed to a waiting interpreter, and what it hands back; `supervisor.py` is the other
side.
"""

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
    body = marshal.dumps(
        (
            source,
            {name: bytes(content) for name, content in files.items()},
            list(rlimits),
            report_fd,
        )
    )
    return len(body).to_bytes(8, "little") + body


def decode_report(report: bytes) -> tuple[int, float] | None:
    """Exit code (minus the signal's number) and processor seconds of the program; None when its
    supervisor could not report.
    """
    if len(report) < 16:
        return None
    code, cpu_ms = (
        int.from_bytes(report[start : start + 8], "little", signed=True) for start in (0, 8)
    )
    return code, cpu_ms / 1e3
