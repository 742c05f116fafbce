"""What a query-level classifier sees (docs/method.md, section 11): the goal and the first
observation, and nothing that happens later.

A hashed bag of words, equal across processes and machines; a router that reads it sends a whole
episode to one model.
"""

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

QUERY_FEATURE_VERSION = "query-1"
_BUCKETS = 64
QUERY_FEATURE_NAMES: tuple[str, ...] = (
    "goal_words",
    "observation_words",
    *(f"words_{i}" for i in range(_BUCKETS)),
)
_WORD = re.compile(r"\w+")


def query_features(goals: Sequence[str], first_observations: Sequence[str]) -> Array:
    """[N, F] in the order of `QUERY_FEATURE_NAMES`; a bucket holds log(1 + words that fall into
    it).
    """
    rows_NF = np.zeros((len(goals), len(QUERY_FEATURE_NAMES)))
    for row_F, goal, observation in zip(rows_NF, goals, first_observations, strict=True):
        in_goal = _WORD.findall(goal.lower())
        in_observation = _WORD.findall(observation.lower())
        row_F[:2] = len(in_goal), len(in_observation)
        for word in (*in_goal, *in_observation):
            row_F[2 + zlib.crc32(word.encode()) % _BUCKETS] += 1
    rows_NF[:, 2:] = np.log1p(rows_NF[:, 2:])
    return rows_NF
