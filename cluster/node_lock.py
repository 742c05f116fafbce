"""What happens on one node at a time, whichever process of the node does it."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def node_lock(name: str, needed: bool = True) -> Iterator[None]:
    """Hold the lock of this name while the block runs; the kernel releases it when the process
    ends. Waits without a deadline: whoever needs the block's result has one.
    """
    if not needed:
        yield
        return
    path = Path(tempfile.gettempdir()) / f"r2v-{os.getuid()}-{name}.lock"
    with path.open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Closing is not enough: a process forked inside the block holds the file too.
            fcntl.flock(handle, fcntl.LOCK_UN)
