"""What is known of the states of one environment: where each action led, and snapshots of machines.

A state is the sequence of actions that led to it. One with a snapshot need not be played again to
be reached; memory for snapshots is bounded, and the oldest ones go first.
"""

from collections.abc import Callable
from dataclasses import dataclass

Path = tuple[str, ...]
_MOST_BYTES = 16 << 20
_MOST_RESULTS = 4000


@dataclass(frozen=True)
class Result:
    """What an action led to. `done` is the number of the oracle's commands carried out, `last` the
    last action, `spent_s` the time of all commands. `folder` is where the shell is, `home` where
    the oracle's next command expects it, and `waits` says that a program waits for input.
    """

    observation: str
    reward: float = 0.0
    stop: str = ""
    done: int = 0
    last: str = ""
    spent_s: float = 0.0
    folder: str = ""
    home: str = ""
    waits: bool = False


class States:
    """Results and snapshots by path. `standing` is where the machine is, None where that is not
    known.
    """

    def __init__(self) -> None:
        self._results: dict[Path, Result] = {}
        self._snapshots: dict[Path, bytes] = {}
        self._bytes = 0
        self.standing: Path | None = None

    def __contains__(self, path: Path) -> bool:
        return path in self._results

    def __getitem__(self, path: Path) -> Result:
        return self._results[path]

    def known(self, path: Path) -> Result | None:
        """The result of a path that can be taken for granted: it is over, the machine stands there,
        or there is a snapshot to go on from. Any other is played, so that what it shows can be
        compared.
        """
        result = self._results.get(path)
        if result is None:
            return None
        at_hand = result.stop or path == self.standing or path in self._snapshots
        return result if at_hand else None

    def tidy(self) -> None:
        """At the beginning of an episode: forget all states but the first where there are many."""
        if len(self._results) > _MOST_RESULTS:
            snapshot = self._snapshots.get(())
            self._results = {(): self._results[()]}
            self._snapshots = {} if snapshot is None else {(): snapshot}
            self._bytes = len(snapshot or b"")

    def add(self, path: Path, result: Result) -> None:
        """Note where a path led."""
        self._results[path] = result

    def snapshot(self, path: Path) -> bytes | None:
        """The machine as it was there, if it was kept."""
        return self._snapshots.get(path)

    def keep(self, path: Path, take: Callable[[], bytes | None]) -> None:
        """Take a snapshot where there is none yet and one can be had."""
        if path in self._snapshots:
            return
        snapshot = take()
        if snapshot is None:
            return
        self._snapshots[path] = snapshot
        self._bytes += len(snapshot)
        for oldest in list(self._snapshots)[1:-1]:  # the beginning stays
            if self._bytes <= _MOST_BYTES:
                break
            self._bytes -= len(self._snapshots.pop(oldest))
