"""The operating points of r2v (docs/method.md, section 8): chosen on live validation episodes,
measured on live test episodes.

    selected       the cheapest threshold whose CVaR of failure is at most epsilon above the
                   teacher's, with a margin (threshold_selection)
    budget         the two adjacent thresholds mixed so that teacher calls are a given share of
                   teacher-only's on validation
    expected_cost  the threshold of least expected cost on validation: calls, SLM steps at their
                   price, kappa for a failed episode
    bayes          escalate iff rho - rho1 >= (c_T - c_S) / kappa; a rule on the predicted values
                   that no arm plays

What a mix comes to on test tasks is the expectation over its draws, from the episodes of both
thresholds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from r2v_dist.config.router import RouterConfig
from r2v_dist.evaluation.comparison import REFERENCE, SeedArms
from r2v_dist.evaluation.outcomes import ArmOutcomes
from r2v_dist.evaluation.threshold_selection import Tolerance
from r2v_dist.stats.bootstrap import task_bootstrap_interval, worst_seed_success
from r2v_dist.stats.cvar import cvar_failure
from r2v_dist.stats.mixing import Mix, bayes_escalates, bayes_threshold, meet_budget

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What an operating point comes to on test tasks."""

    success_rate: float
    success_ci: tuple[float, float]
    llm_call_rate: float
    teacher_call_fraction: float | None
    worst_seed_success: float
    cvar_failure: float


@dataclass(frozen=True)
class ChosenPoint:
    """One operating point. `cheap` and `share` belong to a mix: an episode plays `threshold` with
    probability `share`, else `cheap`.

    `test` is None for a point that was not played; `note` says why, or what the threshold is
    compared with.
    """

    kind: str
    training_seed: int
    threshold: float | None
    cheap: float | None
    share: float
    validation_call_fraction: float | None
    test: Outcome | None
    note: str
    kept: bool | None = None
    """Of the selected point: whether it keeps the tolerance on validation tasks."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Prices:
    """What the router was told: the price of an SLM step and of a failed episode in
    teacher calls.
    """

    slm: float
    failure: float

    @classmethod
    def of(cls, config: RouterConfig) -> "Prices":
        """Of a run's configuration."""
        return cls(config.slm_cost / config.teacher_cost, config.kappa)


def live_points(
    validation: SeedArms, test: SeedArms, budget: float | None, prices: Prices, tolerance: Tolerance
) -> list[ChosenPoint]:
    """The points that were played, for one training seed."""
    arms = {arm.threshold: arm for arm in validation.points(REFERENCE) if arm.threshold is not None}
    if not arms:
        return []
    test_arms = {arm.threshold: arm for arm in test.points(REFERENCE)}
    teacher = _teacher_calls(validation)

    def point(kind: str, mix: Mix, note: str, kept: bool | None = None) -> ChosenPoint:
        validation_share = None
        if teacher:
            calls = [float(arms[t].calls_TZ.mean()) / teacher for t in (mix.expensive, mix.cheap)]
            validation_share = float(np.dot([mix.share, 1 - mix.share], calls))
        mix_arms = [test_arms[mix.expensive], test_arms[mix.cheap]]
        return ChosenPoint(
            kind,
            test.training_seed,
            mix.expensive,
            None if mix.cheap == mix.expensive else mix.cheap,
            mix.share,
            validation_share,
            _outcome(mix_arms, mix.share, _teacher_calls(test), tolerance),
            note,
            kept,
        )

    points = []
    threshold = validation.selected.get(REFERENCE)
    if threshold is not None and threshold in arms:
        ours, ends = arms[threshold], validation.points("teacher_only")[0]
        kept = tolerance.keeps(ours, ends)
        note = _reason(ours, ends, tolerance, kept)
        points.append(point("selected", Mix(threshold, threshold, 1.0, 0.0), note, kept))
    if budget is not None and teacher:
        points.append(_on_budget(point, arms, budget, teacher, test.training_seed))
    cheapest = min(sorted(arms), key=lambda t: _expected_cost(arms[t], prices))
    note = f"a failure costs {prices.failure:g} teacher calls"
    points.append(point("expected_cost", Mix(cheapest, cheapest, 1.0, 0.0), note))
    return points


def _reason(arm: ArmOutcomes, teacher: ArmOutcomes, tolerance: Tolerance, kept: bool) -> str:
    """Why validation chose the threshold of this arm."""
    tail = cvar_failure(arm.success_TZ, tolerance.alpha)
    floor = cvar_failure(teacher.success_TZ, tolerance.alpha)
    limit = (
        f"CVaR of failure at most {tolerance.epsilon:g} above the teacher's on validation tasks, "
        f"bootstrap margin {tolerance.margin:.0%} (as played {tail:.3f}, the teacher {floor:.3f})"
    )
    if kept:
        return f"the cheapest with {limit}"
    return f"no threshold has {limit}; this one has the least"


def bayes_point(
    rho_N: Array, rho1_N: Array | None, training_seed: int, prices: Prices
) -> ChosenPoint:
    """The rule of docs/method.md, section 8 on test states along the SLM's own path."""
    threshold = bayes_threshold(1.0, prices.slm, prices.failure)
    if rho1_N is None:
        return ChosenPoint(
            "bayes",
            training_seed,
            threshold,
            None,
            1.0,
            None,
            None,
            "this router predicts no risk after one teacher step",
        )
    share = float(bayes_escalates(rho_N, rho1_N, 1.0, prices.slm, prices.failure).mean())
    note = f"compared with rho - rho1: true at {share:.1%} of the SLM-only steps; not played"
    return ChosenPoint("bayes", training_seed, threshold, None, 1.0, None, None, note)


def _on_budget(
    point: Any, arms: dict[float, ArmOutcomes], budget: float, teacher: float, training_seed: int
) -> ChosenPoint:
    try:
        mix = meet_budget(
            sorted(arms), lambda threshold: float(arms[threshold].calls_TZ.mean()) / teacher, budget
        )
    except ValueError as error:
        return ChosenPoint("budget", training_seed, None, None, 1.0, None, None, str(error))
    budget_point: ChosenPoint = point(
        "budget", mix, f"at most {budget:.0%} of teacher-only's calls on validation"
    )
    return budget_point


def _outcome(
    arms: Sequence[ArmOutcomes], share: float, teacher: float, tolerance: Tolerance
) -> Outcome:
    weights = np.array([share, 1 - share])
    success_TZ, calls_TZ, steps_TZ = (
        np.tensordot(weights, np.stack([getattr(arm, name) for arm in arms]), 1)
        for name in ("success_TZ", "calls_TZ", "steps_TZ")
    )
    return Outcome(
        float(success_TZ.mean()),
        task_bootstrap_interval(success_TZ, tolerance.resamples, tolerance.seed),
        float(calls_TZ.sum() / max(1.0, steps_TZ.sum())),
        float(calls_TZ.mean()) / teacher if teacher else None,
        worst_seed_success(success_TZ),
        cvar_failure(success_TZ, tolerance.alpha),
    )


def _expected_cost(arm: ArmOutcomes, prices: Prices) -> float:
    return float(
        (arm.calls_TZ + prices.slm * arm.steps_TZ + prices.failure * (1 - arm.success_TZ)).mean()
    )


def _teacher_calls(seed_arms: SeedArms) -> float:
    arms = seed_arms.points("teacher_only")
    return float(arms[0].calls_TZ.mean()) if arms else 0.0
