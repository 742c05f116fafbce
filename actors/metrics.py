"""What a run tells Prometheus through Ray: every metric by name, and how it is recorded.

Invariant: a metric is recorded for a whole unit, shard or probe, never for a step of an episode;
tags have few values. Where metrics are off, and in an inline run, nothing here imports Ray.

Ray forgets a gauge that is not set again within two of its reports (20 s), and keeps counters.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

EXPORTED = "ray_"
"""What Ray puts before the name of a metric; a counter's name ends in `_total` besides."""
_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_SHARD_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Metric:
    """A metric of a run. `bounds` are the upper bounds of a histogram's buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    tags: tuple[str, ...]
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The names under which Prometheus has it."""
        name = EXPORTED + self.name
        if self.kind == "histogram":
            return (f"{name}_bucket", f"{name}_sum", f"{name}_count")
        return (f"{name}_total",) if self.kind == "counter" else (name,)


_STAGE = ("run", "stage")
_FAILURE = ("run", "stage", "kind")
_ENGINE = ("run", "role", "replica")

STAGE_RUNNING = Metric("r2v_stage_running", "gauge", "1 while the stage runs, else 0.", _STAGE)
STAGE_UNITS = Metric(
    "r2v_stage_units", "gauge", "Units that the stage had to play as it began.", _STAGE
)
UNITS_LEFT = Metric("r2v_stage_units_left", "gauge", "Units that are not finished.", _STAGE)
UNITS_UNDER_WAY = Metric(
    "r2v_dispatcher_units_under_way", "gauge", "Units that runners have.", _STAGE
)
UNITS = Metric("r2v_dispatcher_units", "counter", "Units that were finished.", _STAGE)
UNIT_SECONDS = Metric(
    "r2v_dispatcher_unit_seconds",
    "histogram",
    "Seconds from giving a unit to a runner until its report.",
    _STAGE,
    _SECONDS,
)
UNIT_FAILURES = Metric(
    "r2v_dispatcher_unit_failures",
    "counter",
    "Units that came back without a result, by kind: runner (its process died), environment, "
    "unit (what playing it raised, models included), other.",
    _FAILURE,
)
EPISODES = Metric("r2v_dispatcher_episodes", "counter", "Episodes that were finished.", _STAGE)
SUCCESSES = Metric("r2v_dispatcher_successes", "counter", "Episodes that succeeded.", _STAGE)
STEPS = Metric("r2v_dispatcher_steps", "counter", "Steps of finished episodes.", _STAGE)
QUESTIONS = Metric(
    "r2v_dispatcher_questions", "counter", "Questions to models, memoised ones included.", _STAGE
)
MODEL_CALLS = Metric(
    "r2v_dispatcher_model_calls", "counter", "Questions that reached a model.", _STAGE
)
SAMPLED_TOKENS = Metric(
    "r2v_dispatcher_sampled_tokens", "counter", "Tokens that models sampled.", _STAGE
)
RUNNERS = Metric("r2v_runners", "gauge", "Env runners that have started.", ("run",))
RUNNERS_REPLACED = Metric(
    "r2v_runners_replaced", "counter", "Env runners that were replaced.", ("run",)
)
NODES_EXCLUDED = Metric(
    "r2v_nodes_excluded", "gauge", "Nodes that get no work because units failed there.", ("run",)
)
COMMITTED = Metric(
    "r2v_collector_episodes", "counter", "Episodes that were written to shards.", _STAGE
)
COMMITTED_BYTES = Metric("r2v_collector_bytes", "counter", "Bytes of shards.", _STAGE)
COMMIT_SECONDS = Metric(
    "r2v_collector_commit_seconds",
    "histogram",
    "Seconds that writing a shard took.",
    _STAGE,
    _SHARD_SECONDS,
)
BUFFERED = Metric(
    "r2v_collector_buffered_episodes", "gauge", "Episodes that wait for their shard.", _STAGE
)
ENGINE_SERVING = Metric(
    "r2v_engine_serving", "gauge", "1 while the engine answers questions, else 0.", _ENGINE
)
ENGINE_COMPUTING = Metric(
    "r2v_engine_computing_requests", "gauge", "Requests that the engine computes.", _ENGINE
)
ENGINE_WAITING = Metric(
    "r2v_engine_waiting_requests", "gauge", "Requests that wait for room in the engine.", _ENGINE
)
ENGINE_SILENT = Metric(
    "r2v_engine_silent_seconds",
    "gauge",
    "Seconds that the engine has computed without finishing an answer.",
    _ENGINE,
)
ENGINE_TOKENS = Metric(
    "r2v_engine_tokens", "counter", "Tokens that the engine answered with.", _ENGINE
)
ENGINE_RESTARTS = Metric(
    "r2v_engine_restarts", "counter", "Times that the engine was started again.", _ENGINE
)
LEARNER_STEP = Metric("r2v_learner_step", "gauge", "Optimizer step of the learner.", _STAGE)
LEARNER_STEPS = Metric("r2v_learner_steps", "gauge", "Optimizer steps in all.", _STAGE)
LEARNER_LOSS = Metric("r2v_learner_loss", "gauge", "Loss that the learner logged last.", _STAGE)

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of this page."""


@dataclass(frozen=True)
class Meter:
    """Records metrics of one run. Picklable; cheap to make. `run` is a tag of every metric."""

    run: str = ""
    on: bool = False

    def add(self, metric: Metric, value: float = 1.0, **tags: str) -> None:
        """Raise a counter; by nothing is allowed."""
        if self.on and value:
            _of_ray(metric).inc(value, {"run": self.run, **tags})

    def set(self, metric: Metric, value: float, **tags: str) -> None:
        """Give a gauge its value."""
        if self.on:
            _of_ray(metric).set(value, {"run": self.run, **tags})

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        """Add a value to a histogram."""
        if self.on:
            _of_ray(metric).observe(value, {"run": self.run, **tags})


OFF = Meter()
"""Records nothing."""


@cache
def _of_ray(metric: Metric) -> Any:
    """This process's end of a metric; Ray adds up what processes say."""
    from ray.util.metrics import Counter, Gauge, Histogram

    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, list(metric.bounds), metric.tags)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.help, metric.tags)
