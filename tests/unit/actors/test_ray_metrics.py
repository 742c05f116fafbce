"""What is told of a run, and the dashboard that shows it, name the same metrics."""

import importlib.util
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from actors import metrics
from actors.failures import RunnerDied, UnitBroken
from actors.metrics import METRICS, Meter, Metric
from actors.totals import Totals
from actors.unit_meter import UnitMeter
from actors.vllm.engine_meter import EngineMeter
from actors.vllm.health import Report, State
from tests.runs import ROOT

DASHBOARD = ROOT / "cluster" / "dashboards" / "r2v.json"
MONITORING = ROOT / "docs" / "monitoring.md"


@dataclass(frozen=True)
class Sums(Meter):
    """Adds up what Ray would be told, by metric and tags."""

    on: bool = True
    told: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, metric: Metric, value: float = 1.0, **tags: str) -> None:
        key = (metric.name, *tags.values())
        self.told[key] = self.told.get(key, 0.0) + value

    def set(self, metric: Metric, value: float, **tags: str) -> None:
        self.told[metric.name, *tags.values()] = value

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        self.add(metric, value, **tags)


def source_of(package: str, file: str) -> str:
    """A file of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    return (Path(found.origin).parent / file).read_text(encoding="utf-8")


def known(name: str) -> bool:
    """Whether an installed program has the metric that Prometheus calls so."""
    if any(name in one.exported for one in METRICS):
        return True
    if name.startswith("ray_vllm_"):
        bare = re.sub("_(bucket|total)$", "", name.removeprefix("ray_vllm_"))
        return f'"vllm:{bare}"' in source_of("vllm", "v1/metrics/loggers.py")
    panels = "dashboard/modules/metrics/dashboards/default_dashboard_panels.py"
    return f"{name}{{" in source_of("ray", panels)


def test_the_dashboard_names_metrics_that_exist_and_all_of_ours() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [t["expr"] for panel in board["panels"] for t in panel.get("targets", [])]
    queries += [v["definition"] for v in board["templating"]["list"] if v["name"] == "run"]
    named = set(re.findall(r"\bray_\w+", " ".join(queries)))
    assert [name for name in sorted(named) if not known(name)] == []
    assert [one.name for one in METRICS if not named.intersection(one.exported)] == []
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(places)


def test_every_metric_is_documented() -> None:
    text = MONITORING.read_text(encoding="utf-8")
    assert [one.name for one in METRICS if f"`{one.name}`" not in text] == []


def test_an_engine_that_starts_again_counts_on() -> None:
    meter = Sums()
    engine = EngineMeter(meter, "slm", "1")
    for report, restarts in (
        (Report(State.SERVING, tokens=10, computing=3, process="a"), 0),
        (Report(State.SERVING, tokens=25, computing=2, process="a"), 0),
        (None, 0),
        (Report(State.STARTING, process="b"), 1),
        (Report(State.SERVING, tokens=7, waiting=4, process="b"), 1),
    ):
        engine.record(report, restarts)
    assert meter.told[metrics.ENGINE_TOKENS.name, "slm", "1"] == 32
    assert meter.told[metrics.ENGINE_RESTARTS.name, "slm", "1"] == 1
    assert meter.told[metrics.ENGINE_SERVING.name, "slm", "1"] == 1
    assert meter.told[metrics.ENGINE_WAITING.name, "slm", "1"] == 4
    engine.record(None, 1)
    assert meter.told[metrics.ENGINE_SERVING.name, "slm", "1"] == 0


def test_units_are_added_up_by_stage_and_failures_by_cause() -> None:
    meter = Sums()
    units = UnitMeter(meter)
    units.begin("labels")
    units.finished(Totals(units=1, episodes=4, steps=40, successes=3), 2.0)
    units.failed(UnitBroken("no games"))
    units.begin("evaluate")
    units.finished(Totals(units=1, episodes=2, steps=10), 1.0)
    units.failed(RunnerDied("killed", starting=False))
    units.failed(RunnerDied("killed", starting=False))
    assert meter.told[metrics.STEPS.name, "labels"] == 40
    assert meter.told[metrics.STEPS.name, "evaluate"] == 10
    assert meter.told[metrics.SUCCESSES.name, "labels"] == 3
    assert meter.told[metrics.UNIT_FAILURES.name, "labels", "environment"] == 1
    assert meter.told[metrics.UNIT_FAILURES.name, "evaluate", "runner"] == 2
