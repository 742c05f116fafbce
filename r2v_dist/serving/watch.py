"""What the gateway has done so far, for its page, its metrics and its alarms. Invariant: memory
does not grow with traffic, and no label names a conversation or a caller.
"""

import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client import Counter as Counted

from r2v_dist.serving.begun import Begun
from r2v_dist.serving.costs import cost_of
from r2v_dist.serving.drift import FeatureDrift, RiskTest, advice
from r2v_dist.serving.gateway import Gateway

_BUCKETS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0)
_LATEST = 100
_BINS = 20
_JUDGEABLE = 100_000
"""Answers that feedback may be about, the latest."""


@dataclass(frozen=True, slots=True)
class Judgeable:
    """What is kept of an answer that feedback may be about."""

    caller: str
    state: bytes
    conversation: bytes


class Watch:
    """A listener of a gateway; `drift` is None where the run has no training states."""

    def __init__(self, gateway: Gateway, drift: FeatureDrift | None = None) -> None:
        self._gateway = gateway
        self._since = time.time()
        self.drift = drift
        self.risk_test = RiskTest()
        self.registry = CollectorRegistry()
        self._metrics = _Metrics(self.registry)
        self._routes = Counter[str]()
        self._would = Counter[str]()
        self._reasons = Counter[str]()
        self._risks = [0] * _BINS
        self._cost = dict.fromkeys(("slm", "teacher", "always_teacher", "would"), 0.0)
        self._latest: deque[dict[str, Any]] = deque(maxlen=_LATEST)
        self._answers: LRUCache[str, Judgeable] = LRUCache(_JUDGEABLE)
        self._alone: LRUCache[bytes, float | None] = LRUCache(_JUDGEABLE)

    def answered(self, begun: Begun) -> None:
        """Take an answer in."""
        if begun.dry:
            self._metrics.requests.labels("dry_run", begun.outcome.reason, begun.status).inc()
            return
        cost = cost_of(begun, self._gateway.config.prices)
        self._metrics.answered(begun, cost.slm + cost.teacher, cost.saved)
        self._routes[begun.route] += 1
        if begun.outcome.would is not None:
            self._would[begun.outcome.would] += 1
            self._cost["would"] += cost.slm + (
                cost.always_teacher if begun.outcome.would == "teacher" else 0.0
            )
            self._metrics.shadow.labels(begun.route, begun.outcome.would).inc()
        self._reasons[begun.outcome.reason] += 1
        for name in ("slm", "teacher", "always_teacher"):
            self._cost[name] += getattr(cost, name)
        if begun.predicted is not None:
            self._risks[min(_BINS - 1, int(begun.predicted.risk * _BINS))] += 1
            if self.drift is not None:
                self.drift.add(begun.predicted.features_F)
        if begun.id and begun.status == "served":
            root = begun.conversation.root
            self._answers[begun.id] = Judgeable(begun.caller.name, begun.state, root)
        self._note_alone(begun)
        self._latest.appendleft(_shown(begun))

    def restore(self, answer_id: str, answer: Judgeable) -> None:
        """Let feedback be about an answer of an earlier gateway."""
        self._answers[answer_id] = answer

    def judged(self, answer_id: str, caller: str, success: bool) -> Judgeable | None:
        """Take feedback in about the conversation that ends with an answer; None where this caller
        was given no such answer."""
        answer: Judgeable | None = self._answers.get(answer_id)
        if answer is None or answer.caller != caller:
            return None
        risk = self._alone.pop(answer.state, None)  # one bet, however often it is judged
        if risk is not None:
            self.risk_test.add(risk, not success)
        self._metrics.feedback.labels(str(success).lower()).inc()
        return answer

    def exposition(self) -> bytes:
        """For Prometheus."""
        metrics = self._metrics
        metrics.state_entries.set(len(self._gateway.state))
        if self.drift is not None:
            for name, index in self.drift.psi().items():
                metrics.psi.labels(name).set(index)
        if (gap := self.risk_test.gap) is not None:
            metrics.gap.set(gap)
        return generate_latest(self.registry)

    def status(self) -> dict[str, Any]:
        """For the page."""
        total = sum(self._routes.values())
        psi = self.drift.psi() if self.drift is not None else {}
        alarms = self.drift.alarms() if self.drift is not None else []
        policy = self._gateway.policy
        point = policy.points[policy.default]
        ours = self._cost["slm"] + self._cost["teacher"]
        return {
            "since": self._since,
            "answers": total,
            "escalation_rate": self._routes["teacher"] / total if total else None,
            "shadow": self._shadow(),
            "reasons": dict(self._reasons),
            "risks": self._risks,
            "router": policy.router,
            "router_version": policy.version,
            "policy_version": self._gateway.slm.version,
            "teacher_version": self._gateway.teacher.version,
            "operating_point": point.name,
            "threshold": point.threshold,
            "cost": {
                "slm": self._cost["slm"],
                "teacher": self._cost["teacher"],
                "always_teacher": self._cost["always_teacher"],
                "saved": self._cost["always_teacher"] - ours,
            },
            "psi": psi,
            "drift": alarms,
            "judged": self.risk_test.count,
            "calibration_gap": self.risk_test.gap,
            "calibration_alarm": self.risk_test.alarm,
            "advice": advice(alarms, self.risk_test.alarm),
            "latest": list(self._latest),
        }

    def _shadow(self) -> dict[str, Any] | None:
        """What the router would have done; None where it decides."""
        side = self._gateway.config.shadow
        if side is None:
            return None
        total = sum(self._would.values())
        return {
            "answers_by": side,
            "watched": total,
            "escalation_rate": self._would["teacher"] / total if total else None,
            "cost": self._cost["would"],
        }

    def _note_alone(self, begun: Begun) -> None:
        """Keep the first risk of every conversation that the SLM has played alone so far."""
        if begun.status != "served":
            return
        previous = begun.conversation.previous
        first = begun.risk if not previous else self._alone.get(previous)
        self._alone[begun.state] = first if begun.route == "slm" else None


class _Metrics:
    """The series that Prometheus is told."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["route", "reason", "status"]
        self.requests = Counted("r2v_requests", "answers", labels, registry=registry)
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
        self.tokens = Counted("r2v_tokens", "tokens", ["side", "kind"], registry=registry)
        self.calls = Counted("r2v_teacher_requests", "requests sent", registry=registry)
        self.cost = Counted("r2v_cost", "cost by serve.prices", registry=registry)
        self.saved = Gauge(
            "r2v_cost_saved", "against the teacher alone, net of our own cost", registry=registry
        )
        self.shadow = Counted(
            "r2v_shadow",
            "decisions that were not followed (serve.shadow), by who answered",
            ["route", "would"],
            registry=registry,
        )
        self.features = Counted("r2v_features", "features by kind", ["kind"], registry=registry)
        self.feedback = Counted("r2v_feedback", "judgements", ["success"], registry=registry)
        self.psi = Gauge("r2v_drift_psi", "shift against training", ["feature"], registry=registry)
        self.gap = Gauge(
            "r2v_calibration_gap", "observed minus predicted failures", registry=registry
        )
        self.state_entries = Gauge("r2v_state_entries", "answers remembered", registry=registry)

    def answered(self, begun: Begun, cost: float, saved: float) -> None:
        """One answer."""
        self.requests.labels(begun.route, begun.outcome.reason, begun.status).inc()
        self.added.observe(begun.overhead_ms / 1e3)
        self.step.observe(begun.step.model_s)
        if begun.risk is not None:
            self.risk.observe(begun.risk)
        if begun.outcome.reply is not None:
            self.calls.inc(begun.outcome.reply.attempts)
        if (proposal := begun.step.proposal) is not None:
            self.tokens.labels("slm", "prompt").inc(proposal.prompt_tokens)
            self.tokens.labels("slm", "generated").inc(proposal.sampled_tokens)
        if begun.route == "teacher":
            self.tokens.labels("teacher", "prompt").inc(begun.usage.get("prompt_tokens", 0))
            self.tokens.labels("teacher", "generated").inc(begun.usage.get("completion_tokens", 0))
        self.cost.inc(cost)
        self.saved.inc(saved)
        self.features.labels("exact" if begun.conversation.exact else "rebuilt").inc()


def _shown(begun: Begun) -> dict[str, Any]:
    """A line of the page. No text of the conversation is on it."""
    decision = begun.outcome.decision
    return {
        "time": time.time(),
        "conversation": begun.conversation.root.hex()[:8],
        "t": begun.context.t,
        "route": begun.route,
        "reason": begun.outcome.reason,
        "would": begun.outcome.would,
        "risk": begun.risk,
        "score": decision.score,
        "threshold": begun.threshold,
        "exact": begun.conversation.exact,
        "calibrated": not begun.uncalibrated,
        "status": begun.status,
        "overhead_ms": begun.overhead_ms,
        "model_ms": begun.step.model_s * 1e3,
    }
