"""The series that Prometheus is told. Invariant: no label names a conversation or a caller, so
their number does not grow with traffic.
"""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from r2v_dist.serving.begun import Begun

_BUCKETS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)


class _Series(dict[tuple[str, ...], Any]):
    """The series of a metric by their labels; Prometheus' own look-up takes a lock each time."""

    def __init__(self, metric: Counter | Gauge) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> Any:
        series = self[labels] = self._metric.labels(*labels)
        return series


class Metrics:
    """All series of a gateway."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["route", "reason", "status"]
        self.requests = _Series(Counter("r2v_requests", "answers", labels, registry=registry))
        self.failures = _Series(
            Counter("r2v_failures", "requests without a decision", ["status"], registry=registry)
        )
        self.added = Histogram(
            "r2v_added_seconds",
            "time of an answer that no model took",
            buckets=_BUCKETS,
            registry=registry,
        )
        self.step = Histogram(
            "r2v_models_seconds", "time that models took", buckets=_BUCKETS, registry=registry
        )
        bins = [place / 20 for place in range(1, 21)]
        self.risk = Histogram(
            "r2v_risk", "predicted residual risk", buckets=bins, registry=registry
        )
        self.tokens = _Series(Counter("r2v_tokens", "tokens", ["side", "kind"], registry=registry))
        self.calls = Counter("r2v_teacher_requests", "requests sent", registry=registry)
        self.cost = Counter("r2v_cost", "cost by serve.prices", registry=registry)
        self.saved = Gauge(
            "r2v_cost_saved", "against teacher-only, net of our own cost", registry=registry
        )
        self.shadow = _Series(
            Counter(
                "r2v_shadow",
                "decisions that were not followed (serve.shadow), by who answered",
                ["route", "would"],
                registry=registry,
            )
        )
        self.features = _Series(
            Counter("r2v_features", "features by kind", ["kind"], registry=registry)
        )
        self.feedback = _Series(
            Counter("r2v_feedback", "judgements", ["success"], registry=registry)
        )
        self.psi = _Series(
            Gauge("r2v_drift_psi", "shift against training", ["feature"], registry=registry)
        )
        self.beyond = _Series(
            Gauge(
                "r2v_beyond_training",
                "share of the latest steps beyond the router's training states",
                ["feature"],
                registry=registry,
            )
        )
        self.gap = Gauge(
            "r2v_calibration_gap", "observed minus predicted failures", registry=registry
        )
        self.state_entries = Gauge("r2v_state_entries", "answers remembered", registry=registry)

    def answered(self, begun: Begun, cost: float, saved: float) -> None:
        """One answer."""
        self.requests[begun.route, begun.outcome.reason, begun.status].inc()
        self.added.observe(begun.overhead_ms / 1e3)
        self.step.observe(begun.step.model_s)
        if begun.risk is not None:
            self.risk.observe(begun.risk)
        if begun.outcome.reply is not None:
            self.calls.inc(begun.outcome.reply.attempts)
        if (proposal := begun.step.proposal) is not None:
            self.tokens["slm", "prompt"].inc(proposal.prompt_tokens)
            self.tokens["slm", "generated"].inc(proposal.sampled_tokens)
        if begun.route == "teacher":
            self.tokens["teacher", "prompt"].inc(begun.usage.get("prompt_tokens", 0))
            self.tokens["teacher", "generated"].inc(begun.usage.get("completion_tokens", 0))
        self.cost.inc(cost)
        self.saved.inc(saved)
        self.features[("exact" if begun.conversation.exact else "rebuilt",)].inc()
