"""Shows what a learner logs while it trains: its ranks write a file, a thread here reads it."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from r2v_dist.pipeline.progress import Progress
from r2v_dist.storage.metrics_log import last_row


@contextlib.contextmanager
def watched(
    metrics: Path, progress: Progress, tell: Callable[[dict[str, Any]], None]
) -> Iterator[None]:
    """Show the last row of a learner's metrics while the block runs, and tell it."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.5):
            if row := last_row(metrics):
                tell(row)
                progress.update(
                    row["step"],
                    row["of"],
                    f"{row.get('router', '')} loss {row['loss']:.4f}".strip(),
                )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
