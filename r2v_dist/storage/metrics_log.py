"""A log of metrics: appended JSON lines. A half-written last line is ignored."""

import json
from pathlib import Path
from typing import Any

from r2v_dist import files


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a stage's metrics."""
    files.append_json_line(path, row)


def last_row(metrics: Path) -> dict[str, Any] | None:
    """The last complete row; a learner may be writing the next. None where there is no row."""
    if not metrics.is_file():
        return None
    *complete, _ = files.read_text(metrics).split("\n")
    return json.loads(complete[-1]) if complete else None
