"""What the commands that look at a finished run have in common."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from r2v_dist.errors import UsageError, explain, warn


def _named(text: str) -> Path:
    from r2v_dist.config.places import run_folder
    from r2v_dist.object_storage.object_store import holds_secret

    try:
        return run_folder(text, readers=True)
    except ValueError as error:
        argument = "RUN_DIR" if holds_secret(text) else f"RUN_DIR = {text!r}"
        raise UsageError(f"{argument}: {error}") from None


RunFolder = Annotated[
    Path,
    typer.Argument(metavar="RUN_DIR", help="directory or address of a run", parser=_named),
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
