"""Tasks that a run gave up, read from its rows: so a resumed run counts what an earlier attempt
gave up, and a report names them.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from r2v_dist.episodes import StopReason
from r2v_dist.storage import rollouts as rollout_store


@dataclass(frozen=True)
class Quarantined:
    """A task of which a stage gave up episodes, how many, and why the first was."""

    stage: str
    task: str
    episodes: int
    detail: str


def quarantined(folder: Path) -> list[Quarantined]:
    """The tasks that a stage gave up, by their names."""
    rows = rollout_store.rows_where(folder, _gave_up, ["t", "task", "stop_reason", "detail"])
    tasks, details = rows["task"].to_pylist(), rows["detail"].to_pylist()
    counts = Counter(tasks)
    detail_by_task = dict(zip(reversed(tasks), reversed(details), strict=True))
    return [
        Quarantined(folder.name, task, counts[task], detail_by_task[task])
        for task in sorted(counts)
    ]


def _gave_up(table: pa.Table) -> Any:
    reasons = table["stop_reason"].cast(pa.string())
    return pc.and_(pc.less_equal(table["t"], 0), pc.equal(reasons, StopReason.QUARANTINED.value))


def quarantined_in_run(rollouts: Path) -> list[Quarantined]:
    """The tasks that the stages of a run gave up, by stage. `rollouts` has a folder for each."""
    return [entry for folder in sorted(rollouts.glob("*")) for entry in quarantined(folder)]
