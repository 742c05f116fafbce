"""What the gateway remembers of its answers. Invariant: memory is bounded, and whatever is dropped
is missed openly: the features of a conversation that needs it are then called rebuilt.
"""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cachetools import LRUCache

Actor = Literal["slm", "teacher"]


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer that was given. `ids` are the SLM's as sampled; `score` is the router's and
    `prompt_tokens` the length of the SLM's prompt at that step; `at` is when, in seconds since the
    epoch."""

    actor: Actor
    ids: "array[int] | None" = None
    verifier_best: float = math.nan
    score: float | None = None
    prompt_tokens: int = 0
    at: float = 0.0


class StateCache:
    """Answers by the hash of the conversation that they end."""

    def __init__(self, entries: int) -> None:
        self._answers: LRUCache[bytes, Answered] = LRUCache(entries)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: bytes) -> Answered | None:
        """The answer, which counts as used."""
        answer: Answered | None = self._answers.get(key)
        return answer

    def put(self, key: bytes, answered: Answered) -> None:
        """Remember an answer; the one that was not used for longest makes room."""
        self._answers[key] = answered

    def restore(self, answers: Iterable[tuple[bytes, Answered]]) -> None:
        """Take in what a log kept, the oldest first."""
        for key, answer in answers:
            self.put(key, answer)
