"""A set of episode keys that is only asked for membership: 8 bytes a key, and not the key itself.

A key is known by its 64-bit hash, which is the same in every process, so that a set can be sent to
another. Two of n keys share a hash with a probability of n^2 / 2^65: 4 in a million for 12 million
keys, 3 in a hundred million for a million. Where it happens, one episode of a stage is never
played.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

_AT_LEAST = 1 << 16
_SHARE = 16

Hashes = npt.NDArray[np.int64]


class KeySet:
    """Recent hashes lie in a set, the others in a sorted array. The set is merged into the array
    when it has a sixteenth of it, so that adding a key costs the same however many there are.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._sorted: Hashes = np.empty(0, np.int64)
        self._recent: set[int] = set()
        self.update(keys)

    def update(self, keys: Iterable[str]) -> None:
        """Add some keys."""
        self._recent.update(map(_hash, keys))
        if len(self._recent) > max(_AT_LEAST, len(self._sorted) // _SHARE):
            self._merge(_array(self._recent))
            self._recent = set()

    def absorb(self, other: "KeySet") -> None:
        """Add all keys of another set."""
        self._merge(other._sorted)
        self._recent |= other._recent

    def __contains__(self, key: object) -> bool:
        number = _hash(str(key))
        if number in self._recent:
            return True
        at = int(np.searchsorted(self._sorted, number))
        return at < len(self._sorted) and int(self._sorted[at]) == number

    def __getstate__(self) -> dict[str, Any]:
        """As one array, which costs a process that shares memory with this one nothing."""
        self._merge(_array(self._recent))
        self._recent = set()
        return self.__dict__

    def __len__(self) -> int:
        return len(self._sorted) + len(self._unknown(_array(self._recent)))

    def _merge(self, hashes: Hashes) -> None:
        new_hashes = np.sort(self._unknown(hashes))
        self._sorted = np.insert(
            self._sorted, np.searchsorted(self._sorted, new_hashes), new_hashes
        )

    def _unknown(self, hashes: Hashes) -> Hashes:
        """Those that the array does not have."""
        left = np.searchsorted(self._sorted, hashes, "left")
        right = np.searchsorted(self._sorted, hashes, "right")
        unknown: Hashes = hashes[left == right]
        return unknown


def _hash(key: str) -> int:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _array(hashes: set[int]) -> Hashes:
    return np.fromiter(hashes, np.int64, len(hashes))
