"""What the commands that look at a finished run have in common."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from r2v_dist.cli.typed_path import read_as
from r2v_dist.errors import explain, warn

RunFolder = Annotated[
    Path,
    typer.Argument(metavar="RUN_DIR", help="directory of a run", callback=read_as("RUN_DIR")),
]


@contextmanager
def may_be_read_only() -> Iterator[None]:
    """What a finished run shows can be seen where nothing can be written; only a copy
    is missing.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        warn(f"shown only, not written: {explain(error)}")
