"""Which stage runs and how far it is, as metrics. Recorded by the driver while Ray is there."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from actors import metrics
from actors.metrics import Meter

if TYPE_CHECKING:
    from actors.stage_loop import OnProgress
    from actors.totals import Totals

_AGAIN_S = 1.0
"""Ray forgets a gauge that is not set again within two of its reports."""


class StageMeter:
    """Of all stages of a run."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    @contextlib.contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """The stage runs while the block does."""
        if not self._meter.on:
            yield
            return
        end = threading.Event()

        def tell() -> None:
            while not end.is_set():
                self._meter.set(metrics.STAGE_RUNNING, 1, stage=stage)
                end.wait(_AGAIN_S)

        teller = threading.Thread(target=tell, daemon=True, name="stage-running")
        teller.start()
        try:
            yield
        finally:
            end.set()
            teller.join()
            self._meter.set(metrics.STAGE_RUNNING, 0, stage=stage)

    def units_of(self, stage: str, on_progress: "OnProgress") -> "OnProgress":
        """Tells of the units of a stage what `on_progress` is told too."""

        def tell(totals: "Totals", total: int) -> None:
            self._meter.set(metrics.STAGE_UNITS, total, stage=stage)
            self._meter.set(metrics.UNITS_LEFT, max(0, total - totals.units), stage=stage)
            on_progress(totals, total)

        return tell

    def learned(self, stage: str, row: dict[str, Any]) -> None:
        """The last row that a learner logged."""
        self._meter.set(metrics.LEARNER_STEP, row["step"], stage=stage)
        self._meter.set(metrics.LEARNER_STEPS, row["of"], stage=stage)
        self._meter.set(metrics.LEARNER_LOSS, row["loss"], stage=stage)
