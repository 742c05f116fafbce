"""Which files of a mirror are which objects, and which objects are a folder.

Invariant: a file counts as an object only as long as its size and its time of change are those that
it had when it was written from the object, or as the object.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from r2v_dist.errors import StoreFailure

NOTES = ".tags"
"""Folder of a mirror with a note on each of its files."""


@dataclass(frozen=True)
class Notes:
    """The notes of one mirror."""

    root: Path

    def remember(self, name: str, tag: str, identity: list[int] | None = None) -> None:
        """Note that a file is the object with this tag.

        Args:
            identity: what the file was when it was uploaded; None: what it is now.
        """
        note = [tag, *(identity or identity_of(self.root / name))]
        place = self.root / NOTES / name
        with beside(place) as scratch:
            scratch.write_text(json.dumps(note), encoding="utf-8")
            os.replace(scratch, place)

    def hold(self, name: str, tag: str | None = None) -> bool:
        """Whether a file is as it was when it was an object (with this tag)."""
        with contextlib.suppress(OSError, ValueError):
            note = (self.root / NOTES / name).read_text(encoding="utf-8")
            noted_tag, *identity = json.loads(note)
            return identity == identity_of(self.root / name) and tag in (None, noted_tag)
        return False


def identity_of(path: Path) -> list[int]:
    """What differs between two versions of a file."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def mark_of(names: Sequence[str], sizes: Sequence[int], tags: Sequence[str]) -> bytes:
    """What says that a folder of objects is whole, and differs between two contents."""
    contents = dict(zip(names, zip(sizes, tags, strict=True), strict=True))
    return json.dumps(contents, indent=1).encode()


def sizes_in(mark: bytes, where: str) -> Mapping[str, int]:
    """The objects of a folder and their sizes. Raises StoreFailure for what is no mark."""
    try:
        return {name: int(size) for name, (size, _) in json.loads(mark).items()}
    except (ValueError, TypeError, AttributeError):
        problem = "damaged; delete it and run the same command again"
        raise StoreFailure(f"{where}: {problem}") from None


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name next to `path` that no other writer has; what is left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(6)}.tmp")
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)
