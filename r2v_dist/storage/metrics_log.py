"""A log of metrics: appended JSON lines. A half-written last line is ignored."""

import json
from pathlib import Path
from typing import Any

from r2v_dist import files


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a stage's metrics."""
    files.append_json_line(path, row)


def last_row(metrics: Path) -> dict[str, Any] | None:
    """The last complete row; a learner may be writing the next. None where there is no row, or one
    that a crash of the machine has damaged: metrics are only shown."""
    if not metrics.is_file():
        return None
    *complete, _ = metrics.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        row = json.loads(complete[-1]) if complete else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
