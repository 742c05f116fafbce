"""Paths on the command line. Invariant: they are read as those in a configuration are, also where
no shell has replaced `~`.
"""

from collections.abc import Callable
from pathlib import Path


def read_as(name: str) -> Callable[[Path], Path]:
    """What turns an argument called `name` into its path; it raises UsageError for one that no file
    can have.
    """

    def read(path: Path) -> Path:
        from r2v_dist.config.places import named_path

        return named_path(str(path), name)

    return read
