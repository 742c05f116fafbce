"""The version of a model: a hash of its weights, read once.

Invariant: a remembered hash is used only for files of the same path, size, time of change and
inode; weights that were changed in place or replaced are read again. A cache that cannot be
written costs time and nothing else.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from r2v_dist import files
from r2v_dist.config.places import cache_folder
from r2v_dist.errors import UsageError
from r2v_dist.seeding import short_hash
from r2v_dist.storage.checkpoints import base_of

_SETTLED_S = 2.0
"""Files changed later than this before they are hashed are not remembered: a second change may
leave their time as it is."""
_BLOCK = 1 << 20


def checkpoint_version(name: str, folder: Path) -> str:
    """A version that names the weights themselves: `name` and a hash of the safetensors files; of
    an adapter, those of its model and its own.
    """
    weights = _weights(folder)
    if (base := base_of(folder)) is not None:
        weights = [*_weights(base), *weights]
    return f"{name}-{_remembered(weights)}"


def _weights(folder: Path) -> list[Path]:
    """Raises UsageError where there are none."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UsageError(
            f"{folder}: no safetensors file; a model is a Hugging Face directory with safetensors "
            f"weights"
        )
    return weights


def _remembered(weights: Sequence[Path]) -> str:
    stats = [path.stat() for path in weights]
    parts = [
        (path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        for path, stat in zip(weights, stats, strict=True)
    ]
    place = cache_folder("weights") / short_hash(*parts)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        digest = place.read_text(encoding="ascii")
        if len(digest) == 2 * _hash().digest_size:
            return digest
    digest = _digest(weights)
    if time.time() - max(stat.st_mtime for stat in stats) > _SETTLED_S:
        with contextlib.suppress(OSError):
            os.makedirs(place.parent, exist_ok=True)
            files.write_atomically(place, digest)
    return digest


def _digest(weights: Sequence[Path]) -> str:
    digest = _hash()
    for path in weights:
        with path.open("rb") as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _hash() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=6)
