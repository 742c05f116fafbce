"""`r2v estimate`: where a run, its request log and the off-policy estimator meet. Nothing is
served, played or written.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from r2v_dist.config.router import RouterConfig
from r2v_dist.errors import UsageError
from r2v_dist.evaluation.off_policy import OffPolicy
from r2v_dist.evaluation.operating_points import Prices
from r2v_dist.object_storage.mirror import shown
from r2v_dist.pipeline.served_policy import training_drift
from r2v_dist.pipeline.steps.router import hysteresis_of
from r2v_dist.serving.log import read_log
from r2v_dist.serving.log_report import LogReport
from r2v_dist.serving.log_traffic import logged_traffic
from r2v_dist.storage.run_dir import open_run


def estimate(root: Path, logs: Sequence[Path], threshold: float | None = None) -> LogReport:
    """What the request logs of a run tell, of every threshold that chance could have given, or of
    one beside that which is served; without `logs` that of the run directory. Raises UsageError for
    a log that is none, and for a threshold without overlap."""
    run, config = open_run(root)
    folders = logs or (run.root / "gateway" / "requests",)
    table = pa.concat_tables([_read(folder) for folder in folders]).sort_by("time")
    hysteresis = hysteresis_of(config)
    traffic = logged_traffic(table, lambda router: training_drift(run, config, router), hysteresis)
    prices = Prices.of(config.router or RouterConfig())
    try:
        estimator = OffPolicy(
            traffic.conversations, traffic.now, prices, hysteresis.get(traffic.router)
        )
    except UsageError as error:
        if threshold is not None:
            raise
        return LogReport(traffic, (), prices, str(error))
    thresholds = estimator.thresholds
    if threshold is not None:  # nobody may have been judged yet at the one that is served now
        thresholds = sorted({estimator.named(threshold), *({traffic.now} & set(thresholds))})
    rows = [estimator.at(level) for level in thresholds]
    return LogReport(traffic, rows, prices)


def _read(folder: Path) -> pa.Table:
    if not any(folder.glob("*.arrows")):
        raise UsageError(
            f"{shown(folder)}: no request log (*.arrows) is there; `r2v serve` writes one to "
            f"gateway/requests of the run directory"
        )
    return read_log(folder)
