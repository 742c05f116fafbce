"""Other thresholds, from logged conversations (docs/method.md, section 12).

Invariant: a conversation tells of a threshold only if chance could have given it that threshold;
without such overlap there is no number, but a reason.

The scores of a conversation and who acted say which thresholds would have decided alike at every
step. A conversation that a threshold would have played alike counts for it with the weight
1 / (probability that some threshold which plays it alike was drawn).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from r2v_dist.errors import UsageError
from r2v_dist.evaluation.operating_points import Prices
from r2v_dist.router.exploration import Design, agrees
from r2v_dist.router.switching import Hysteresis
from r2v_dist.stats.off_policy import (
    Array,
    Estimate,
    Interval,
    doubly_robust,
    mean_interval,
    proportion_interval,
)

LEAST = 30
"""Fewest draws of conversations, and least effective number of them, that a number is given for."""
SUCCESS = np.array([1.0, 0.0, 0.0])
CALLS = np.array([0.0, 1.0, 0.0])
_CALLS, _STEPS = 1, 2


@dataclass(frozen=True)
class LoggedConversation:
    """A judged conversation. `drawn_by` names its draw; conversations with equal names had the same
    one, and are not independent. `scores` and `actors` are of its steps, in order, and
    `propensities` those of the sides that acted. `risk` is the residual risk at its first step,
    None where the router predicts none.
    """

    drawn_by: str
    design: Design
    scores: tuple[float, ...]
    actors: tuple[str, ...]
    propensities: tuple[float, ...]
    success: bool
    risk: float | None = None
    features_TF: Array | None = field(default=None, compare=False, repr=False)
    """What the router read at every step; None where it read none."""

    @property
    def propensity(self) -> float:
        """The probability that a threshold was drawn which plays it alike."""
        return float(np.prod(self.propensities))

    @property
    def calls(self) -> int:
        """Steps of the teacher."""
        return self.actors.count("teacher")


@dataclass(frozen=True)
class ThresholdEstimate:
    """What a threshold comes to. `conversations` could have been given it, `alike` were played as
    it would have played them, which tells as much as `effective` independent ones. `calls` are the
    teacher's in a conversation, `call_rate` is its share of the steps; `cost` is in teacher calls,
    a failure's included, and `extra_cost` is the cost less that of the threshold that is served
    now. Where `problem` says why, there are no numbers.
    """

    threshold: float
    conversations: int
    alike: int
    effective: float
    problem: str = ""
    success: float | None = None
    success_ci: Interval | None = None
    calls: float | None = None
    calls_ci: Interval | None = None
    call_rate: float | None = None
    call_rate_ci: Interval | None = None
    cost: float | None = None
    extra_cost: float | None = None
    extra_cost_ci: Interval | None = None
    mean_weight: float | None = None
    mean_weight_error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class OffPolicy:
    """The estimator of a log. `now` is the threshold that is served. Differences of cost hold at
    `level` for all thresholds at once (Bonferroni)."""

    conversations: Sequence[LoggedConversation]
    now: float
    prices: Prices
    hysteresis: Hysteresis | None = None
    level: float = 0.95

    def __post_init__(self) -> None:
        draws = len({c.drawn_by for c in self.conversations})
        if draws < LEAST:
            raise UsageError(
                f"{len(self.conversations)} judged conversations of {draws} draws can be used; an "
                f"estimate takes {LEAST}. POST /v1/feedback judges more"
            )

    @property
    def thresholds(self) -> list[float]:
        """All that chance could have given to some conversation, ascending."""
        return sorted({t for c in self.conversations for t in c.design.thresholds})

    def estimates(self) -> list[ThresholdEstimate]:
        """One of every threshold that chance could have given."""
        return [self.at(threshold) for threshold in self.thresholds]

    def named(self, threshold: float) -> float:
        """The threshold that is shown as this one is, which may have more digits."""
        text = f"{threshold:.6g}"
        return next((t for t in self.thresholds if f"{t:.6g}" == text), threshold)

    def at(self, threshold: float) -> ThresholdEstimate:
        """One threshold. Raises UsageError where no conversation could have been given it."""
        covered = [c for c in self.conversations if c.design.covers(threshold)]
        if not covered:
            choices = ", ".join(f"{t:.6g}" for t in self.thresholds)
            raise UsageError(
                f"threshold {threshold:.6g}: no overlap, as no conversation could have been given "
                f"it; there are {choices}. serve.explore.thresholds adds others"
            )
        weight_N = self._weights(covered, threshold)
        alike = int((weight_N > 0).sum())
        if not alike:
            return ThresholdEstimate(threshold, len(covered), 0, 0.0, "none was played alike")
        estimate = self._estimate(covered, weight_N)
        effective = estimate.effective
        if effective < LEAST:
            problem = f"as good as {effective:.0f} conversations, {LEAST} are needed"
            return ThresholdEstimate(threshold, len(covered), alike, effective, problem)
        return self._numbers(threshold, estimate, len(covered), alike)

    def extra(self, threshold: float, level: float) -> tuple[float, Interval] | None:
        """The cost of a threshold less that of the one that is served, with its interval, from
        conversations that could have been given either. None where too few could."""
        overlap = [
            c
            for c in self.conversations
            if c.design.covers(threshold) and c.design.covers(self.now)
        ]
        weights = [self._weights(overlap, t) for t in (threshold, self.now)] if overlap else []
        if not weights or not all(weight_N.any() for weight_N in weights):
            return None
        there, here = (self._estimate(overlap, weight_N) for weight_N in weights)
        effective = min(there.effective, here.effective)
        if effective < LEAST:
            return None
        difference = replace(
            there,
            mean_Y=there.mean_Y - here.mean_Y,
            influence_CY=there.influence_CY - here.influence_CY,
        )
        extra = difference.of(self._cost)
        symmetric = mean_interval(0.0, difference.error(self._cost), effective, level)[1]
        rarer_there = self.prices.failure * _skew(there, level)
        rarer_here = self.prices.failure * _skew(here, level)
        low = extra - math.hypot(symmetric, rarer_here)
        return extra, (low, extra + math.hypot(symmetric, rarer_there))

    @property
    def _cost(self) -> Array:
        """The cost of a conversation in its success, calls and steps, less a constant."""
        return np.array([-self.prices.failure, 1.0, self.prices.slm])

    def _weights(self, conversations: Sequence[LoggedConversation], threshold: float) -> Array:
        alike = [agrees(threshold, c.scores, c.actors, self.hysteresis) for c in conversations]
        propensity_N = np.array([c.propensity for c in conversations])
        weight_N: Array = np.array(alike, dtype=np.float64) / propensity_N
        return weight_N

    def _estimate(self, conversations: Sequence[LoggedConversation], weight_N: Array) -> Estimate:
        outcome_NY = np.array(
            [(c.success, c.calls, len(c.actors)) for c in conversations], dtype=np.float64
        )
        covariate_NX = np.array([_before(c) for c in conversations])
        _, cluster_N = np.unique([c.drawn_by for c in conversations], return_inverse=True)
        return doubly_robust(outcome_NY, weight_N, covariate_NX, cluster_N)

    def _numbers(
        self, threshold: float, estimate: Estimate, conversations: int, alike: int
    ) -> ThresholdEstimate:
        effective = estimate.effective
        rate, rate_error = estimate.ratio(_CALLS, _STEPS)
        strict = 1 - (1 - self.level) / max(1, len(self.thresholds) - 1)
        extra = self.extra(threshold, strict) if threshold != self.now else None
        return ThresholdEstimate(
            threshold,
            conversations,
            alike,
            effective,
            success=min(1.0, max(0.0, estimate.of(SUCCESS))),
            success_ci=proportion_interval(
                estimate.of(SUCCESS), estimate.error(SUCCESS), estimate.heaviest, self.level
            ),
            calls=estimate.of(CALLS),
            calls_ci=mean_interval(
                estimate.of(CALLS), estimate.error(CALLS), effective, self.level
            ),
            call_rate=min(1.0, max(0.0, rate)),
            call_rate_ci=proportion_interval(rate, rate_error, estimate.heaviest, self.level),
            cost=estimate.of(self._cost) + self.prices.failure,
            extra_cost=extra and extra[0],
            extra_cost_ci=extra and extra[1],
            mean_weight=estimate.mean_weight,
            mean_weight_error=estimate.mean_weight_error,
        )


def _skew(estimate: Estimate, level: float) -> float:
    """How much further the interval of failure reaches up than a symmetric one, in quadrature:
    failures are rare, and one that was not seen weighs more than those that were."""
    failure = 1 - estimate.of(SUCCESS)
    error = estimate.error(SUCCESS)
    reach = 1 - proportion_interval(1 - failure, error, estimate.heaviest, level)[0] - failure
    symmetric = mean_interval(0.0, error, estimate.effective, level)[1]
    return math.sqrt(max(0.0, reach**2 - symmetric**2))


def _before(conversation: LoggedConversation) -> tuple[float, float]:
    """What is known of a conversation before its first decision."""
    score = conversation.scores[0]
    return score, score if conversation.risk is None else conversation.risk
