"""All randomness is a pure function of names: equal parts give equal streams on every machine and
in every process.
"""

import hashlib
import random


def stable_hash(*parts: object) -> int:
    """63-bit hash of the parts' text, equal across processes (unlike `hash`, which PYTHONHASHSEED
    changes).
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def short_hash(*parts: object) -> str:
    """16 hex digits of `stable_hash`, for ids and file names."""
    return f"{stable_hash(*parts):016x}"


def rng_for(*parts: object) -> random.Random:
    """A generator of its own for the named purpose, e.g. `rng_for(task_id, z, t, operator)`."""
    return random.Random(stable_hash(*parts))
