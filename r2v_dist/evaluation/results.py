"""Everything a report says, computed once from the store and the manifests; page, JSON and terminal
only show it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from r2v_dist.config.router import RouterConfig
from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.certificate import RunCertificate, certificate_of
from r2v_dist.evaluation.comparison import REFERENCE, Comparisons, SeedArms, compare
from r2v_dist.evaluation.operating_points import ChosenPoint, Prices, bayes_point, live_points
from r2v_dist.evaluation.outcomes import ArmOutcomes, RouterRow, arm_outcomes, router_rows
from r2v_dist.evaluation.risk_quality import RiskQuality, risk_quality, score_auroc
from r2v_dist.evaluation.routing_signals import RoutingSignals, routed_states, routing_signals
from r2v_dist.evaluation.teacher_answers import teacher_answers
from r2v_dist.evaluation.threshold_selection import Tolerance
from r2v_dist.evaluation.trained_routers import (
    Forecasts,
    evaluated,
    forecasts_of,
    routers_of,
    score_areas,
)
from r2v_dist.stats.bootstrap import task_bootstrap_interval, worst_seed_success
from r2v_dist.stats.seed_difference import SeedDifference, seed_difference
from r2v_dist.storage.quarantine import Quarantined, quarantined_in_run
from r2v_dist.storage.run_dir import RunDir, stage_name


@dataclass(frozen=True)
class Overall:
    """A router over all training seeds: means, an interval over tasks, and the lowest success under
    one perturbation seed.
    """

    name: str
    thresholds: tuple[float, ...]
    success_rate: float
    success_ci: tuple[float, float]
    llm_call_rate: float
    worst_seed_success: float
    training_seeds: int


@dataclass(frozen=True)
class Findings:
    """Test rows of all training seeds, perturbed and clean, and what follows from them. Empty or
    None where a run has no such stage.
    """

    seeds: tuple[SeedArms, ...]
    perturbed: list[RouterRow]
    clean: list[RouterRow]
    forecasts: tuple[Forecasts, ...]
    risk: list[RiskQuality]
    signals: list[RoutingSignals]
    seed_differences: list[SeedDifference]
    scores: dict[str, list[float | None]]
    comparisons: Comparisons | None
    points: list[ChosenPoint]
    certificate: RunCertificate | None
    teacher_answers: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """By training seed and router: answers of the teacher that its training took."""
    quarantined: Sequence[Quarantined] = ()
    """Tasks that the run gave up."""

    @classmethod
    def of(cls, run: RunDir, config: RunConfig) -> "Findings":
        """All of it. Nothing before the evaluation of the first training seed is complete."""
        resamples = config.evaluate.bootstrap
        seed = config.seed
        complete_seeds = evaluated(run, config)
        tests = [_seed_arms(run, config, "evaluate", s) for s in complete_seeds]
        validated_seeds = [s for s in complete_seeds if run.manifest(stage_name("validate", s))]
        validations = [_seed_arms(run, config, "validate", s) for s in validated_seeds]
        forecasts = tuple(
            forecast
            for s in complete_seeds
            if (forecast := forecasts_of(run, config, s)) is not None
        )
        risk = _risk(forecasts, seed)
        perturbed: list[RouterRow] = []
        for test in tests:
            perturbed += router_rows(
                test.arms, config.alpha, resamples, seed, test.selected or None
            )
        clean: list[RouterRow] = []
        for s in complete_seeds:
            arms = arm_outcomes(run.rollouts(stage_name("evaluate", s)), clean=True)
            clean += router_rows(arms, config.alpha, resamples, seed)
        return cls(
            tuple(tests),
            with_risk(perturbed, risk),
            clean,
            forecasts,
            risk,
            _signals(run, config, tests, forecasts),
            _seed_differences(config, tests),
            _scores(run, complete_seeds, validated_seeds),
            compare(tests, resamples, seed),
            _points(run, config, tests, validations, forecasts),
            certificate_of(run, config) if run.manifest("calibrate") else None,
            {s: teacher_answers(run, config, s) for s in complete_seeds},
            quarantined_in_run(run.root / "rollouts"),
        )

    def answers(self, name: str, training_seed: int | None = None) -> int | None:
        """The teacher answers that the training of a router took, for one training seed or on
        average; None where that is no question.
        """
        seeds = self.teacher_answers if training_seed is None else [training_seed]
        counts = [
            count for s in seeds if (count := self.teacher_answers.get(s, {}).get(name)) is not None
        ]
        return round(float(np.mean(counts))) if counts else None

    def overall(self, name: str, resamples: int, seed: int) -> "Overall | None":
        """An end, or a router at its selected thresholds, over all training seeds; None where one
        of them lacks it.
        """
        arms = shown_arms(self.seeds, name)
        if not arms:
            return None
        success_TZ = np.mean([arm.success_TZ for arm in arms], axis=0)
        return Overall(
            name,
            tuple(arm.threshold for arm in arms if arm.threshold is not None),
            float(success_TZ.mean()),
            task_bootstrap_interval(success_TZ, resamples, seed),
            float(np.mean([arm.calls_TZ.sum() / max(1.0, arm.steps_TZ.sum()) for arm in arms])),
            min(worst_seed_success(arm.success_TZ) for arm in arms),
            len(arms),
        )

    @property
    def training_seeds(self) -> int:
        """How many were evaluated."""
        return len(self.seeds)


def shown_arms(seeds: Sequence[SeedArms], name: str) -> list[ArmOutcomes]:
    """An end, or a router at its selected threshold, for every training seed. Empty where one of
    them lacks it.
    """
    arms = []
    for seed_arms in seeds:
        ends = [arm for arm in seed_arms.points(name) if arm.threshold is None]
        arm = ends[0] if ends else seed_arms.chosen(name)
        if arm is None:
            return []
        arms.append(arm)
    return arms


def _seed_arms(run: RunDir, config: RunConfig, stage: str, training_seed: int) -> SeedArms:
    manifest = run.manifest(stage_name("validate", training_seed))
    selected = manifest.results.get("selected", {}) if manifest else {}
    return SeedArms(
        training_seed,
        tuple(arm_outcomes(run.rollouts(stage_name(stage, training_seed)))),
        selected,
        config.slm_only_router,
    )


def _risk(forecasts: Sequence[Forecasts], seed: int) -> list[RiskQuality]:
    qualities = []
    for forecast in forecasts:
        for name, rho_N in forecast.rho.items():
            quality = risk_quality(name, forecast.training_seed, rho_N, forecast.steps, seed)
            if quality is not None:
                qualities.append(quality)
    return qualities


def _points(
    run: RunDir,
    config: RunConfig,
    tests: Sequence[SeedArms],
    validations: Sequence[SeedArms],
    forecasts: Sequence[Forecasts],
) -> list[ChosenPoint]:
    """The operating points of every training seed, from the validation of that seed."""
    prices = Prices.of(config.router or RouterConfig())
    validation_by_seed = {v.training_seed: v for v in validations}
    forecasts_by_seed = {f.training_seed: f for f in forecasts}
    points = list[ChosenPoint]()
    for test in tests:
        training_seed = test.training_seed
        validation = validation_by_seed.get(training_seed)
        if validation is not None:
            tolerance = Tolerance.of(config, training_seed)
            points += live_points(validation, test, config.evaluate.budget, prices, tolerance)
        elif test.points(REFERENCE):
            points.append(_not_validated(training_seed))
        model = routers_of(run, config, training_seed).get(REFERENCE)
        forecast = forecasts_by_seed.get(training_seed)
        if model is not None and forecast is not None:
            prediction = model.predict(forecast.steps.features_NF)
            points.append(bayes_point(prediction.rho, prediction.rho1, training_seed, prices))
    return points


def _not_validated(training_seed: int) -> ChosenPoint:
    note = "the validation of this training seed is not complete: nothing was chosen"
    return ChosenPoint("selected", training_seed, None, None, 1.0, None, None, note)


def _signals(
    run: RunDir,
    config: RunConfig,
    tests: Sequence[SeedArms],
    forecasts: Sequence[Forecasts],
) -> list[RoutingSignals]:
    """Of the deployed router of every training seed, on the SLM's own states and on the
    router's.
    """
    forecasts_by_seed = {f.training_seed: f for f in forecasts}
    signals = list[RoutingSignals | None]()
    for test in tests:
        training_seed = test.training_seed
        model = routers_of(run, config, training_seed).get(REFERENCE)
        forecast = forecasts_by_seed.get(training_seed)
        if model is None or forecast is None:
            continue
        features_NF = forecast.steps.features_NF
        areas = score_areas(run, config, training_seed)
        signals.append(
            routing_signals(REFERENCE, model, features_NF, training_seed, "alone", areas)
        )
        arm = test.chosen(REFERENCE)
        if arm is not None and arm.threshold is not None:
            folder = run.rollouts(stage_name("evaluate", training_seed))
            limit = config.env.max_steps
            features_NF = routed_states(folder, REFERENCE, arm.threshold, limit)
            signals.append(
                routing_signals(REFERENCE, model, features_NF, training_seed, "selected", areas)
            )
    return [s for s in signals if s is not None]


def _seed_differences(config: RunConfig, tests: Sequence[SeedArms]) -> list[SeedDifference]:
    """For the SLM as deployed, r2v at its selected thresholds and the teacher: mean losses over
    training seeds.
    """
    alpha = (config.router or RouterConfig()).alpha
    differences = []
    for name in (config.slm_only_router, REFERENCE, "teacher_only"):
        arms = shown_arms(tests, name)
        if arms and len(arms[0].zs) > 1:
            losses_TZ = 1.0 - np.mean([arm.success_TZ for arm in arms], axis=0)
            differences.append(seed_difference(name, losses_TZ, alpha, config.seed))
    return differences


def _scores(
    run: RunDir,
    complete_seeds: Sequence[int],
    validated_seeds: Sequence[int],
) -> dict[str, list[float | None]]:
    """AUROC of every router's score by training seed; None where a seed has no validation."""
    by_seed = {s: score_auroc(run.rollouts(stage_name("validate", s))) for s in validated_seeds}
    names = sorted({name for aurocs in by_seed.values() for name in aurocs})
    return {name: [by_seed.get(s, {}).get(name) for s in complete_seeds] for name in names}


def learning_of(
    run: RunDir, names: Sequence[str], of_interest: Sequence[str]
) -> dict[str, Any] | None:
    """Results of the stages that say how learning went, for every training seed."""
    manifests = [
        m
        for name in names
        if name.partition("@")[0] in of_interest and (m := run.manifest(name)) is not None
    ]
    return {m.stage: m.results for m in manifests} or None


def with_risk(rows: Sequence[RouterRow], risks: Sequence["RiskQuality"]) -> list[RouterRow]:
    """The rows with what is known of each router's predicted risk; it does not depend on the
    threshold.
    """
    risk_by_router = {(risk.name, risk.training_seed): risk for risk in risks}
    return [
        replace(row, brier=risk.brier, ece15=risk.ece15, auroc=risk.auroc)
        if (risk := risk_by_router.get((row.name, row.training_seed)))
        else row
        for row in rows
    ]
