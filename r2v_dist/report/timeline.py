"""Which stage ran when, beside the engines, runners and learners that were there meanwhile.

Invariant: what the run directory does not say is not made up: an attempt or a group of processes
without an end is shown until its driver's last sign of life, as cut off.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from r2v_dist import files
from r2v_dist.errors import DamagedFile, warn
from r2v_dist.storage.run_dir import RunDir
from r2v_dist.storage.timeline import Span, spans

HOUR_S = 3600.0


@dataclass(frozen=True)
class Bar:
    """An attempt at a stage (`kind` stage), or a group of processes and what they asked for
    together (`kind` processes). `ready_s` is the time until they first answered, in seconds. Times
    are seconds since 1970. `cut`: nobody recorded its end.
    """

    row: str
    kind: str
    begun: float
    ended: float
    cut: bool
    count: int = 1
    cpus: float = 0.0
    gpus: float = 0.0
    ready_s: float | None = None


def bars(run: RunDir, stage_names: Iterable[str]) -> list[Bar]:
    """The attempts at the stages, then the groups of processes; both in order."""
    groups = _groups(run)
    attempts = [attempt for name in stage_names for attempt in _attempts(run, name)]
    last_signs = _last_seen(attempts, groups)
    stage_bars = [_stage_bar(attempt, last_signs) for attempt in attempts]
    return stage_bars + [_group_bar(group, last_signs) for group in groups]


def asked_hours(timeline: Sequence[Bar], stage: str) -> dict[str, float]:
    """Hours of cores and of GPUs that processes asked for while a stage ran."""
    hours = {"cpu_hours": 0.0, "gpu_hours": 0.0}
    attempts = [bar for bar in timeline if bar.kind == "stage" and bar.row == stage]
    for group in (bar for bar in timeline if bar.kind == "processes"):
        shared = sum(_overlap(group, attempt) for attempt in attempts) / HOUR_S
        hours["cpu_hours"] += shared * group.cpus
        hours["gpu_hours"] += shared * group.gpus
    return hours


def as_facts(timeline: Sequence[Bar]) -> list[dict[str, Any]] | None:
    """For the machine-readable report; None where nothing is known."""
    return [asdict(bar) for bar in timeline] or None


@dataclass(frozen=True)
class _Attempt:
    stage: str
    begun: float
    driver: int
    ended: float | None


def _groups(run: RunDir) -> list[Span]:
    try:
        return spans(run.root)
    except DamagedFile as error:
        warn(f"{error.path} {error.problem}: the report shows no engines, runners and learners")
        return []


def _attempts(run: RunDir, stage: str) -> list[_Attempt]:
    """The attempts at a stage; that of a complete stage ended when its manifest says."""
    path = run.root / "stages" / stage / "attempts.jsonl"
    try:
        rows = files.read_json_lines(path)
    except DamagedFile as error:
        warn(f"{path} {error.problem}: the report shows no attempt at stage {stage}")
        rows = []
    starts = [row for row in rows if "started" in row]
    attempts = [_Attempt(stage, row["started"], row.get("pid", 0), None) for row in starts]
    manifest = run.manifest(stage)
    if manifest is not None and attempts:
        last = attempts[-1]
        end = last.begun + manifest.wall_s
        attempts[-1] = _Attempt(stage, last.begun, last.driver, end)
    return attempts


def _last_seen(attempts: Sequence[_Attempt], groups: Sequence[Span]) -> dict[int, float]:
    """The last sign of life of every driver. This process lives."""
    last_signs = {os.getpid(): time.time()}
    signs = [(attempt.driver, attempt.ended or attempt.begun) for attempt in attempts]
    signs += [(group.driver, group.ended or group.ready or group.begun) for group in groups]
    for driver, moment in signs:
        last_signs[driver] = max(last_signs.get(driver, 0.0), moment)
    return last_signs


def _stage_bar(attempt: _Attempt, last_signs: dict[int, float]) -> Bar:
    end = attempt.ended or last_signs[attempt.driver]
    return Bar(attempt.stage, "stage", attempt.begun, end, _cut(attempt))


def _group_bar(span: Span, last_signs: dict[int, float]) -> Bar:
    return Bar(
        span.lane,
        "processes",
        span.begun,
        span.ended or last_signs[span.driver],
        _cut(span),
        span.count,
        span.cpus,
        span.gpus,
        None if span.ready is None else span.ready - span.begun,
    )


def _cut(period: _Attempt | Span) -> bool:
    return period.ended is None and period.driver != os.getpid()


def _overlap(group: Bar, attempt: Bar) -> float:
    return max(0.0, min(group.ended, attempt.ended) - max(group.begun, attempt.begun))
