"""The latest traffic, for the page: answers a minute, and where the router's scores lie. Invariant:
memory does not grow with traffic.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SCORES = 1000
"""Decisions whose scores are shown, the latest."""
BINS = 24
_MINUTE_S = 60


class Recent:
    """`clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: deque[list[int]] = deque()
        self._scores: deque[tuple[float, bool]] = deque(maxlen=SCORES)

    def answered(self) -> None:
        """Count an answer."""
        now = int(self._clock())
        if not self._seconds or self._seconds[-1][0] != now:
            self._forget(now)
            self._seconds.append([now, 0])
        self._seconds[-1][1] += 1

    def scored(self, score: float, by_teacher: bool) -> None:
        """Take in a score that was compared with a threshold, and who then acted."""
        self._scores.append((score, by_teacher))

    @property
    def per_minute(self) -> int:
        """Answers of the last 60 seconds."""
        self._forget(int(self._clock()))
        return sum(count for _, count in self._seconds)

    def histogram(self, thresholds: Sequence[float]) -> dict[str, Any] | None:
        """Counts of the scores in equal bins between `least` and `most`, by who acted. A threshold
        within the scores' own width of them is between the two. None without a score."""
        if not self._scores:
            return None
        scores_N = np.array([score for score, _ in self._scores])
        by_teacher_N = np.array([by_teacher for _, by_teacher in self._scores])
        least, most = float(scores_N.min()), float(scores_N.max())
        width = (most - least) or max(abs(most), 1e-3)
        near = [threshold for threshold in thresholds if least - width <= threshold <= most + width]
        least, most = min([least, *near]) - width / 20, max([most, *near]) + width / 20
        counts = {}
        for side, by_teacher in (("slm", False), ("teacher", True)):
            side_scores_N = scores_N[by_teacher_N == by_teacher]
            counts[side] = np.histogram(side_scores_N, BINS, (least, most))[0].tolist()
        return {"least": least, "most": most, "count": len(self._scores), **counts}

    def _forget(self, now: int) -> None:
        while self._seconds and self._seconds[0][0] <= now - _MINUTE_S:
            self._seconds.popleft()
