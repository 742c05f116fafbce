"""What the probes of one engine say, as metrics. Nothing is recorded where the engine computes."""

from actors import metrics
from actors.metrics import Meter
from actors.vllm.health import Report, State


class EngineMeter:
    """Of one replica; the driver's watch calls it after every probe."""

    def __init__(self, meter: Meter, role: str, replica: str) -> None:
        self._meter = meter
        self._tags = {"role": role, "replica": replica}
        self._process = ""
        self._tokens = 0
        self._restarts = 0

    def record(self, report: Report | None, restarts: int) -> None:
        """Take note of a reply, None for a probe that got none, and of the restarts so far."""
        report = report or Report(State.EMPTY, tokens=self._tokens, process=self._process)
        set_ = self._meter.set
        set_(metrics.ENGINE_SERVING, report.state is State.SERVING, **self._tags)
        set_(metrics.ENGINE_COMPUTING, report.computing, **self._tags)
        set_(metrics.ENGINE_WAITING, report.waiting, **self._tags)
        set_(metrics.ENGINE_SILENT, report.silent_s, **self._tags)
        if report.process != self._process:  # it counts from zero
            self._process = report.process
            self._tokens = 0
        self._meter.add(metrics.ENGINE_TOKENS, report.tokens - self._tokens, **self._tags)
        self._meter.add(metrics.ENGINE_RESTARTS, restarts - self._restarts, **self._tags)
        self._tokens = report.tokens
        self._restarts = restarts
