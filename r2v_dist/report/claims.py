"""What a report may say of r2v, of routing and of CVaR, in words that follow from the measured
numbers.
"""

from collections.abc import Callable

from r2v_dist.config.run import RunConfig
from r2v_dist.evaluation.results import Findings
from r2v_dist.evaluation.routing_signals import RoutingSignals
from r2v_dist.report.figures.palette import LABELS
from r2v_dist.router.names import BY_NAME
from r2v_dist.stats.bootstrap import PairedDifference
from r2v_dist.stats.seed_difference import LEVEL, SeedDifference

IDLE = "seeds do not differ beyond noise: CVaR is idle"


def p_text(p_value: float, at_floor: bool) -> str:
    """A p-value; at the least that its permutations can give it is only known to be no larger."""
    return f"p {'<=' if at_floor else '='} {p_value:.2g}"


def standing(findings: Findings) -> list[str]:
    """The baselines that r2v is not ahead of, one sentence for those that are ahead of it and one
    for those that are level: whose paired 95 % interval covers 0. Empty where r2v is ahead of all
    of them, and where there is none.
    """
    sentences = []
    for heading, holds in (
        ("AHEAD OF r2v", lambda gap: gap.high < 0),
        ("LEVEL WITH r2v", lambda gap: gap.low <= 0 <= gap.high),
    ):
        baselines = _those(findings, holds)
        if baselines:
            sentences.append(f"{heading}: {'; '.join(baselines)}")
    return sentences


def _those(findings: Findings, holds: Callable[[PairedDifference], bool]) -> list[str]:
    """The baselines of which it holds, fitted ones first, with where it does and what their
    training took.
    """
    clauses = []
    comparisons = findings.comparisons
    baselines = (
        [] if comparisons is None else [*comparisons.baselines(True), *comparisons.baselines(False)]
    )
    for comparison in baselines:
        measures = {
            "at its calls": comparison.matched_difference,
            "by area": comparison.auc_difference,
        }
        places = [words for words, gap in measures.items() if gap is not None and holds(gap)]
        if places:
            answers = f"{findings.answers(comparison.other)} teacher answers in training"
            effort = answers if BY_NAME[comparison.other].fitted else "unfitted"
            clauses.append(f"{LABELS[comparison.other]}, {' and '.join(places)} ({effort})")
    return clauses


def not_kept(config: RunConfig, findings: Findings) -> list[str]:
    """One sentence where validation found no threshold of r2v within the tolerance."""
    seeds = [str(point.training_seed) for point in findings.points if point.kept is False]
    if not seeds:
        return []
    of_seeds = f" (training seeds {', '.join(seeds)})" if findings.training_seeds > 1 else ""
    return [
        f"NOT KEPT: no threshold of r2v's has CVaR of failure within {config.evaluate.epsilon:g} "
        f"of the teacher's on validation tasks{of_seeds}; the one of least failure is selected"
    ]


def unplayed(config: RunConfig, findings: Findings) -> list[str]:
    """One sentence with the routers that were to be evaluated and got no threshold; none where all
    got some.
    """
    names = [
        name for name in config.swept if any(name not in seed.swept for seed in findings.seeds)
    ]
    if not names:
        return []
    labels = ", ".join(LABELS[name] for name in names)
    return [f"NOT PLAYED: {labels}; no threshold tells validation states apart by their scores"]


def deciding(findings: Findings) -> SeedDifference | None:
    """The test that says whether seeds differ: that of SLM-only, which fails most."""
    return findings.seed_differences[0] if findings.seed_differences else None


def seeds_words(difference: SeedDifference) -> str:
    """Whether the seeds differ, and the CVaR beside its noise floor; without a full stop."""
    evidence = (
        f"{p_text(difference.p_value, difference.at_floor)}, level {LEVEL:g}; "
        f"{LABELS[difference.name]}: CVaR of failure {difference.cvar_failure:.3f}, "
        f"noise floor {difference.cvar_noise_floor:.3f}"
    )
    return f"{'seeds differ beyond noise' if difference.differ else IDLE} ({evidence})"


def shown_signals(findings: Findings) -> RoutingSignals | None:
    """The correlations that words are made of: first training seed, SLM-only states."""
    return findings.signals[0] if findings.signals else None


def first_step_words(findings: Findings, router: str) -> str:
    """Whether a router's residual risk is better than the base rate where no step was made yet."""
    first_steps = [quality.by_step[0] for quality in findings.risk if quality.name == router]
    if not first_steps:
        return ""
    worse = sum(step.brier >= step.constant_brier for step in first_steps)
    if not worse:
        return f"At the first step the risk of {LABELS[router]} is better than the base rate."
    seeds = "" if len(first_steps) == 1 else f" in {worse} of {len(first_steps)} training seeds"
    return f"At the first step the risk of {LABELS[router]} is no better than the base rate{seeds}."


def _what_routes(score: str) -> str:
    if score == "validated":
        return "router.score is validated: validation chose risk, value or disagreement"
    return f"router.score is {score}"


def cvar_role(config: RunConfig) -> str:
    """What CVaR does in this run, whether or not the seeds differ."""
    router = config.router
    if router is None:
        return "No router is trained: CVaR only filters thresholds."
    if router.mode == "joint" or router.score == "policy":
        return "CVaR acts in the training of what routes, and filters thresholds."
    return (
        "CVaR only filters thresholds here: the policy head, which alone sees it in training, "
        f"is not what routes ({_what_routes(router.score)})."
    )
