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
        draws = len({one.drawn_by for one in self.conversations})
        if draws < LEAST:
            raise UsageError(
                f"{len(self.conversations)} judged conversations of {draws} draws can be used; an "
                f"estimate takes {LEAST}. POST /v1/feedback judges more"
            )

    @property
    def thresholds(self) -> list[float]:
        """All that chance could have given to some conversation, ascending."""
        return sorted({t for one in self.conversations for t in one.design.thresholds})

    def estimates(self) -> list[ThresholdEstimate]:
        """One of every threshold that chance could have given."""
        return [self.at(threshold) for threshold in self.thresholds]

    def named(self, threshold: float) -> float:
        """The threshold that is shown as this one is, which may have more digits."""
        shown = f"{threshold:.6g}"
        return next((one for one in self.thresholds if f"{one:.6g}" == shown), threshold)

    def at(self, threshold: float) -> ThresholdEstimate:
        """One threshold. Raises UsageError where no conversation could have been given it."""
        covered = [one for one in self.conversations if one.design.covers(threshold)]
        if not covered:
            known = ", ".join(f"{one:.6g}" for one in self.thresholds)
            raise UsageError(
                f"threshold {threshold:.6g}: no overlap, as no conversation could have been given "
                f"it; there are {known}. serve.explore.thresholds adds others"
            )
        weight_N = self._weights(covered, threshold)
        alike = int((weight_N > 0).sum())
        if not alike:
            return ThresholdEstimate(threshold, len(covered), 0, 0.0, "none was played alike")
        found = self._estimate(covered, weight_N)
        effective = found.effective
        if effective < LEAST:
            few = f"as good as {effective:.0f} conversations, {LEAST} are needed"
            return ThresholdEstimate(threshold, len(covered), alike, effective, few)
        return self._numbers(threshold, found, len(covered), alike)

    def extra(self, threshold: float, level: float) -> tuple[float, Interval] | None:
        """The cost of a threshold less that of the one that is served, with its interval, from
        conversations that could have been given either. None where too few could."""
        either = [
            one
            for one in self.conversations
            if one.design.covers(threshold) and one.design.covers(self.now)
        ]
        weights = [self._weights(either, one) for one in (threshold, self.now)] if either else []
        if not weights or not all(weight_N.any() for weight_N in weights):
            return None
        there, here = (self._estimate(either, weight_N) for weight_N in weights)
        effective = min(there.effective, here.effective)
        if effective < LEAST:
            return None
        between = replace(
            there,
            mean_Y=there.mean_Y - here.mean_Y,
            influence_CY=there.influence_CY - here.influence_CY,
        )
        extra = between.of(self._cost)
        symmetric = mean_interval(0.0, between.error(self._cost), effective, level)[1]
        rarer_there = self.prices.failure * _skew(there, level)
        rarer_here = self.prices.failure * _skew(here, level)
        low = extra - math.hypot(symmetric, rarer_here)
        return extra, (low, extra + math.hypot(symmetric, rarer_there))

    @property
    def _cost(self) -> Array:
        """The cost of a conversation in its success, calls and steps, less a constant."""
        return np.array([-self.prices.failure, 1.0, self.prices.slm])

    def _weights(self, conversations: Sequence[LoggedConversation], threshold: float) -> Array:
        alike = [
            agrees(threshold, one.scores, one.actors, self.hysteresis) for one in conversations
        ]
        propensity_N = np.array([one.propensity for one in conversations])
        weight_N: Array = np.array(alike, dtype=np.float64) / propensity_N
        return weight_N

    def _estimate(self, conversations: Sequence[LoggedConversation], weight_N: Array) -> Estimate:
        outcome_NY = np.array(
            [(one.success, one.calls, len(one.actors)) for one in conversations], dtype=np.float64
        )
        covariate_NX = np.array([_before(one) for one in conversations])
        _, cluster_N = np.unique([one.drawn_by for one in conversations], return_inverse=True)
        return doubly_robust(outcome_NY, weight_N, covariate_NX, cluster_N)

    def _numbers(
        self, threshold: float, found: Estimate, conversations: int, alike: int
    ) -> ThresholdEstimate:
        effective = found.effective
        rate, rate_error = found.ratio(_CALLS, _STEPS)
        strict = 1 - (1 - self.level) / max(1, len(self.thresholds) - 1)
        compared = self.extra(threshold, strict) if threshold != self.now else None
        return ThresholdEstimate(
            threshold,
            conversations,
            alike,
            effective,
            success=min(1.0, max(0.0, found.of(SUCCESS))),
            success_ci=proportion_interval(
                found.of(SUCCESS), found.error(SUCCESS), found.heaviest, self.level
            ),
            calls=found.of(CALLS),
            calls_ci=mean_interval(found.of(CALLS), found.error(CALLS), effective, self.level),
            call_rate=min(1.0, max(0.0, rate)),
            call_rate_ci=proportion_interval(rate, rate_error, found.heaviest, self.level),
            cost=found.of(self._cost) + self.prices.failure,
            extra_cost=compared and compared[0],
            extra_cost_ci=compared and compared[1],
            mean_weight=found.mean_weight,
            mean_weight_error=found.mean_weight_error,
        )


def _skew(found: Estimate, level: float) -> float:
    """How much further the interval of failure reaches up than a symmetric one, in quadrature:
    failures are rare, and one that was not seen weighs more than those that were."""
    failure = 1 - found.of(SUCCESS)
    error = found.error(SUCCESS)
    reach = 1 - proportion_interval(1 - failure, error, found.heaviest, level)[0] - failure
    symmetric = mean_interval(0.0, error, found.effective, level)[1]
    return math.sqrt(max(0.0, reach**2 - symmetric**2))


def _before(one: LoggedConversation) -> tuple[float, float]:
    """What is known of a conversation before its first decision."""
    return one.scores[0], one.scores[0] if one.risk is None else one.risk
