"""A log of metrics: JSON lines, appended; a half-written last line is ignored."""

import json
from pathlib import Path
from typing import Any

from r2v_dist import files
from r2v_dist.files import append_json_line


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a stage's metrics."""
    append_json_line(path, row)


def last_row(metrics: Path) -> dict[str, Any] | None:
    """The last row that is written to its end: a learner may be in the middle of the next."""
    *lines, _ = files.read_text(metrics).split("\n") if metrics.is_file() else [""]
    return json.loads(lines[-1]) if lines else None
