"""Whether a run that was disturbed has what an undisturbed one has: every episode, once, with the
same outcome.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Mismatch
from r2v_dist.storage import rollouts as rollout_store

Outcomes = list[tuple[str, bool]]


@dataclass
class Kill:
    """A process that was killed. `moment`: `random` or `boundary`, between two stages."""

    target: str
    moment: str
    stage: str
    at: float
    back_s: float | None = None
    """Until another one was there in its place; None where none was needed any more."""
    noticed_s: float | None = None
    """Until whoever watches engines knew of it."""


@dataclass(frozen=True)
class Accounts:
    """Rows of disturbed runs against those of the undisturbed one."""

    rows: int = 0
    lost: int = 0
    twice: int = 0
    strange: int = 0
    """Rows that the undisturbed run does not have."""
    other_outcome: int = 0

    def __add__(self, more: "Accounts") -> "Accounts":
        mine = asdict(self)
        return Accounts(**{name: mine[name] + value for name, value in asdict(more).items()})

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not (self.lost or self.twice or self.strange or self.other_outcome)


def outcomes(run_dir: Path) -> Outcomes:
    """Every (key, success) of a run, as its readers see it."""
    rows: Outcomes = []
    for folder in sorted((run_dir / "rollouts").iterdir()):
        rows += stage_outcomes(folder)
    return rows


def stage_outcomes(folder: Path) -> Outcomes:
    """Every (key, success) of a stage."""
    table = rollout_store.outcomes(rollout_store.read(folder, ["key", "t", "success"]))
    return list(zip(table["key"].to_pylist(), table["success"].to_pylist(), strict=True))


def compare(calm: Outcomes, hurt: Outcomes) -> Accounts:
    """The accounts of one run. Raises Mismatch where the undisturbed run has a key twice."""
    expected = dict(calm)
    if len(expected) != len(calm):
        raise Mismatch("the undisturbed run has rows twice")
    counts = Counter(key for key, _ in hurt)
    found = dict(hurt)
    return Accounts(
        rows=len(expected),
        lost=len(expected.keys() - found.keys()),
        twice=sum(count - 1 for count in counts.values()),
        strange=len(found.keys() - expected.keys()),
        other_outcome=sum(expected[key] != found[key] for key in expected.keys() & found.keys()),
    )


def summary(kills: list[Kill], accounts: Accounts, runs: int, **more: Any) -> dict[str, Any]:
    """What a target's kills have come to."""
    working = [k.back_s for k in kills if k.back_s is not None and k.moment == "random"]
    waited = [k.back_s for k in kills if k.back_s is not None and k.moment == "boundary"]
    return {
        "kills": len(kills),
        "at_boundaries": sum(kill.moment == "boundary" for kill in kills),
        "runs": runs,
        "rows": accounts.rows,
        "rows_lost": accounts.lost,
        "rows_twice": accounts.twice,
        "rows_strange": accounts.strange,
        "outcomes_equal": accounts.clean,
        "back_s": _spread(working),
        "back_after_boundary_s": _spread(waited),
        "noticed_s": _spread([kill.noticed_s for kill in kills if kill.noticed_s is not None]),
        **more,
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {
        "median": round(median(seconds), 2),
        "max": round(max(seconds), 2),
        "of": len(seconds),
    }
