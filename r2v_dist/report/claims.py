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


def standing(found: Findings) -> list[str]:
    """The baselines that r2v is not ahead of, one sentence for those that are ahead of it and one
    for those that are level: whose paired 95 % interval covers 0. Empty where r2v is ahead of all
    of them, and where there is none.
    """
    sentences = []
    for said, holds in (
        ("AHEAD OF r2v", lambda gap: gap.high < 0),
        ("LEVEL WITH r2v", lambda gap: gap.low <= 0 <= gap.high),
    ):
        named = _those(found, holds)
        if named:
            sentences.append(f"{said}: {'; '.join(named)}")
    return sentences


def _those(found: Findings, holds: Callable[[PairedDifference], bool]) -> list[str]:
    """The baselines of which it holds, fitted ones first, with where it does and what their
    training took.
    """
    named = []
    compared = found.comparisons
    baselines = [] if compared is None else [*compared.baselines(True), *compared.baselines(False)]
    for one in baselines:
        measures = {"at its calls": one.matched_difference, "by area": one.auc_difference}
        where = [words for words, gap in measures.items() if gap is not None and holds(gap)]
        if where:
            answers = f"{found.answers(one.other)} teacher answers in training"
            took = answers if BY_NAME[one.other].fitted else "unfitted"
            named.append(f"{LABELS[one.other]}, {' and '.join(where)} ({took})")
    return named


def unplayed(config: RunConfig, found: Findings) -> list[str]:
    """One sentence with the routers that were to be evaluated and got no threshold; none where all
    got some.
    """
    absent = [name for name in config.swept if any(name not in seed.swept for seed in found.seeds)]
    if not absent:
        return []
    named = ", ".join(LABELS[name] for name in absent)
    return [f"NOT PLAYED: {named}; no threshold tells validation states apart by their scores"]


def deciding(found: Findings) -> SeedDifference | None:
    """The test that says whether seeds differ: that of the SLM alone, which fails most."""
    return found.seed_differences[0] if found.seed_differences else None


def seeds_words(one: SeedDifference) -> str:
    """Whether the seeds differ, and the CVaR beside its noise floor; without a full stop."""
    measured = (
        f"{p_text(one.p_value, one.at_floor)}, level {LEVEL:g}; {LABELS[one.name]}: CVaR of "
        f"failure {one.cvar_failure:.3f}, noise floor {one.cvar_noise_floor:.3f}"
    )
    return f"{'seeds differ beyond noise' if one.differ else IDLE} ({measured})"


def shown_signals(found: Findings) -> RoutingSignals | None:
    """The correlations that words are made of: first training seed, states of the SLM alone."""
    return found.signals[0] if found.signals else None


def first_step_words(found: Findings, router: str) -> str:
    """Whether a router's residual risk is better than the base rate where no step was made yet."""
    by_seed = [one.by_step[0] for one in found.risk if one.name == router]
    if not by_seed:
        return ""
    worse = sum(one.brier >= one.constant_brier for one in by_seed)
    if not worse:
        return f"At the first step the risk of {LABELS[router]} is better than the base rate."
    seeds = "" if len(by_seed) == 1 else f" in {worse} of {len(by_seed)} training seeds"
    return f"At the first step the risk of {LABELS[router]} is no better than the base rate{seeds}."


def cvar_role(config: RunConfig) -> str:
    """What CVaR does in this run, whether or not the seeds differ."""
    router = config.router
    if router is None:
        return "No router is trained: CVaR only filters thresholds."
    if router.mode == "joint" or router.score == "policy":
        return "CVaR acts in the training of what routes, and filters thresholds."
    return (
        "CVaR only filters thresholds here: the policy head, which alone sees it in training, "
        f"is not what routes (router.score is {router.score})."
    )
