"""What a dispatcher's runners do, as metrics: recorded by the driver, once a unit or a second."""

import time

from actors import metrics
from actors.failures import RunnerDied, UnitBroken, UnitFailed
from actors.metrics import Meter, Metric
from actors.totals import Totals

_LOOK_S = 1.0
_SUMS = {
    metrics.UNITS: "units",
    metrics.EPISODES: "episodes",
    metrics.SUCCESSES: "successes",
    metrics.STEPS: "steps",
    metrics.QUESTIONS: "asked",
    metrics.MODEL_CALLS: "engine_calls",
    metrics.SAMPLED_TOKENS: "sampled_tokens",
}
"""Counters, and the sums of `Totals` that they show."""
_KINDS = {RunnerDied: "runner", UnitBroken: "environment", UnitFailed: "unit"}


class UnitMeter:
    """Records for one stage after the other."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._stage = ""
        self._next_look = 0.0

    def begin(self, stage: str) -> None:
        """What follows belongs to this stage."""
        self._stage = stage

    def finished(self, totals: Totals, seconds: float) -> None:
        """A unit was finished, so long after a runner was given it."""
        for metric, name in _SUMS.items():
            self._add(metric, getattr(totals, name))
        self._meter.observe(metrics.UNIT_SECONDS, seconds, stage=self._stage)

    def failed(self, failure: Exception) -> None:
        """A unit came back without a result."""
        kind = _KINDS.get(type(failure), "other")
        self._meter.add(metrics.UNIT_FAILURES, stage=self._stage, kind=kind)

    def replaced(self) -> None:
        """A runner was replaced."""
        self._meter.add(metrics.RUNNERS_REPLACED)

    def look(self, under_way: int, runners: int, excluded: int) -> None:
        """How it stands; recorded once a second."""
        if not self._meter.on or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        self._meter.set(metrics.UNITS_UNDER_WAY, under_way, stage=self._stage)
        self._meter.set(metrics.RUNNERS, runners)
        self._meter.set(metrics.NODES_EXCLUDED, excluded)

    def end(self) -> None:
        """Nothing is under way any more."""
        self._meter.set(metrics.UNITS_UNDER_WAY, 0, stage=self._stage)

    def _add(self, metric: Metric, value: float) -> None:
        self._meter.add(metric, value, stage=self._stage)
