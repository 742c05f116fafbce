"""Ranks that died: which process on which node, and what it last said.

Ray Train starts the ranks again by itself and tells nobody. Invariant: the user learns of every
death, and the log of each such rank is in the run directory.
"""

from concurrent.futures import Future

from cluster import resources
from cluster.post_mortem import Place, actors_of, said_by_now, words_later
from r2v_dist.errors import warn

_RANK = "RayTrainWorker"
"""What Ray Train calls a rank."""


class RankDeaths:
    """Those of one learner, from here on."""

    def __init__(self, learner: str) -> None:
        self._learner = learner
        self._before = set(actors_of(_RANK))
        self._words: dict[Place, Future[str]] = {}

    def look(self) -> None:
        """Tell the user of ranks that have died since the last look."""
        for place in actors_of(_RANK, died=True):
            if place not in self._before and place not in self._words:
                warn(f"learner {self._learner}: a rank died ({place.process})")
                self._words[place] = self._read(place)

    def last_words(self) -> str:
        """The last lines of the rank that died last, or else of the one that started last."""
        self.look()
        if self._words:
            return said_by_now(list(self._words.values())[-1])
        places = [place for place in actors_of(_RANK) if place not in self._before]
        return said_by_now(self._read(places[-1])) if places else ""

    def _read(self, place: Place) -> "Future[str]":
        role = f"{self._learner.replace('.', '_')} rank"
        return words_later(place, role, resources.decided().logs)
