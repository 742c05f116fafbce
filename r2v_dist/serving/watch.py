"""What the gateway has done so far, for its page, its metrics and its alarms. Invariant: memory
does not grow with traffic, and no label names a conversation or a caller.
"""

import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache
from prometheus_client import CollectorRegistry, generate_latest

from r2v_dist.serving.attempt import Failure
from r2v_dist.serving.begun import Begun
from r2v_dist.serving.costs import cost_of
from r2v_dist.serving.drift import FeatureDrift, RiskTest, advice
from r2v_dist.serving.gateway import Gateway
from r2v_dist.serving.metrics import Metrics
from r2v_dist.serving.policy import Point
from r2v_dist.serving.recent import Recent

_LATEST = 100
_BINS = 20


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
        self._metrics = Metrics(self.registry)
        self._recent = Recent()
        self._routes = Counter[str]()
        self._would = Counter[str]()
        self._reasons = Counter[str]()
        self._risks = [0] * _BINS
        self._cost = dict.fromkeys(("slm", "teacher", "always_teacher", "would"), 0.0)
        self._latest: deque[dict[str, Any]] = deque(maxlen=_LATEST)
        judgeable = gateway.config.state_entries
        self._answers: LRUCache[str, Judgeable] = LRUCache(judgeable)
        self._alone: LRUCache[bytes, float | None] = LRUCache(judgeable)

    def answered(self, begun: Begun) -> None:
        """Take an answer in."""
        if begun.dry:
            self._metrics.requests["dry_run", begun.outcome.reason, begun.status].inc()
            return
        cost = cost_of(begun, self._gateway.config.prices)
        self._metrics.answered(begun, cost.slm + cost.teacher, cost.saved)
        self._routes[begun.route] += 1
        if begun.outcome.would is not None:
            self._would[begun.outcome.would] += 1
            self._cost["would"] += cost.slm + (
                cost.always_teacher if begun.outcome.would == "teacher" else 0.0
            )
            self._metrics.shadow[begun.route, begun.outcome.would].inc()
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
        self._recent.answered()
        score = begun.outcome.decision.score
        if score is not None and begun.point.rule == self._default.rule:
            self._recent.scored(score, begun.route == "teacher")
        self._latest.appendleft(_shown(begun))

    def failed(self, failure: Failure) -> None:
        """Count a request that ended without a decision."""
        status = "gone" if failure.status is None else str(failure.status)
        self._metrics.failures[(status,)].inc()

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
        self._metrics.feedback[(str(success).lower(),)].inc()
        return answer

    def exposition(self) -> bytes:
        """For Prometheus."""
        metrics = self._metrics
        metrics.state_entries.set(len(self._gateway.state))
        if self.drift is not None:
            for name, index in self.drift.psi().items():
                metrics.psi[(name,)].set(index)
            for name, share in self.drift.beyond().items():
                metrics.beyond[(name,)].set(share)
        if (gap := self.risk_test.gap) is not None:
            metrics.gap.set(gap)
        return generate_latest(self.registry)

    def status(self) -> dict[str, Any]:
        """For the page."""
        total = sum(self._routes.values())
        psi = self.drift.psi() if self.drift is not None else {}
        alarms = self.drift.alarms() if self.drift is not None else []
        beyond = self.drift.beyond() if self.drift is not None else {}
        policy = self._gateway.policy
        point = self._default
        cost = self._cost["slm"] + self._cost["teacher"]
        return {
            "since": self._since,
            "answers": total,
            "per_minute": self._recent.per_minute,
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
            "thresholds": self._thresholds(),
            "scores": self._recent.histogram(self._thresholds()),
            "cost": {
                "slm": self._cost["slm"],
                "teacher": self._cost["teacher"],
                "always_teacher": self._cost["always_teacher"],
                "saved": self._cost["always_teacher"] - cost,
            },
            "psi": psi,
            "drift": alarms,
            "beyond": beyond,
            "judged": self.risk_test.count,
            "calibration_gap": self.risk_test.gap,
            "calibration_alarm": self.risk_test.alarm,
            "advice": advice(alarms, beyond, self.risk_test.alarm),
            "latest": list(self._latest),
        }

    @property
    def _default(self) -> Point:
        policy = self._gateway.policy
        return policy.points[policy.default]

    def _thresholds(self) -> list[float]:
        """Those that a conversation at the default operating point can be given."""
        point = self._default
        design = self._gateway.policy.design(point)
        if design is not None:
            return list(design.thresholds)
        return [] if point.threshold is None else [point.threshold]

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
        risk = begun.risk if not previous else self._alone.get(previous)
        self._alone[begun.state] = risk if begun.route == "slm" else None


def _shown(begun: Begun) -> dict[str, Any]:
    """A line of the page. No text of the conversation is on it."""
    decision = begun.outcome.decision
    return {
        "time": time.time(),
        "conversation": begun.conversation.opening.hex()[:8],
        "t": begun.context.t,
        "route": begun.route,
        "reason": begun.outcome.reason,
        "would": begun.outcome.would,
        "risk": begun.risk,
        "score": decision.score,
        "threshold": begun.threshold,
        "operating_point": begun.point.name,
        "exact": begun.conversation.exact,
        "calibrated": not begun.uncalibrated,
        "status": begun.status,
        "overhead_ms": begun.overhead_ms,
        "model_ms": begun.step.model_s * 1e3,
    }
